// The page about experts: asks each second, draws what it hears.

import { experts, rebalance } from "./api.js";
import { MOST, cells, colour, points, rankRows, words } from "./heat.js";

const EVERY_MS = 1000;
const GAP = 4; // between ranks [px]
const find = (id) => document.getElementById(id);
const view = { engine: null, rows: [], at: null, size: 0, high: 0 };

async function refresh() {
  try {
    const { engines } = await experts();
    choose(engines);
    say("ready", "live");
  } catch (error) {
    say("lost", error.message);
  }
  setTimeout(() => (document.hidden ? document.addEventListener("visibilitychange", refresh, { once: true }) : refresh()), EVERY_MS);
}

function say(state, text) {
  find("connection").dataset.state = state;
  if (find("connection-text").textContent !== text) find("connection-text").textContent = text;
}

function choose(engines) {
  const names = Object.keys(engines);
  const select = find("engine");
  if (names.join() !== [...select.options].map((option) => option.value).join()) {
    const kept = select.value;
    select.replaceChildren(...names.map((name) => new Option(name)));
    select.value = names.includes(kept) ? kept : names[0];
  }
  find("pick").hidden = names.length < 2;
  show(engines[select.value] ?? {});
}

function show(engine) {
  view.engine = engine;
  const counted = engine.load !== undefined;
  const spread = counted && engine.ranks > 1;
  notice(engine, counted, spread);
  find("load").hidden = !counted;
  find("ranks").hidden = find("moves").hidden = !spread;
  find("trend").hidden = !spread || engine.trend.length < 2;
  find("facts").textContent = spread ? `${engine.ranks} ranks · imbalance ${engine.imbalance.toFixed(2)} · over ${engine.steps} steps` : "";
  if (!counted) return;
  const moved = Object.keys(engine.placements_before ?? {}).length > 0;
  find("before-choice").hidden = !moved;
  view.rows = cells(engine, moved && find("before").checked);
  draw();
  if (!spread) return;
  bars(rankRows(view.rows, engine.ranks));
  if (!find("trend").hidden) trend(engine.trend);
  moves(engine);
}

function notice(engine, counted, spread) {
  let text = "";
  if (engine.error) text = engine.error;
  else if (!counted) text = "This engine does not count the load of experts: its model has none, or runs without native kernels.";
  else if (!spread) text = "This engine has all experts in one place. Their load is counted while this page is open.";
  find("notice").textContent = text;
  find("notice").hidden = text === "";
}

function draw() {
  const canvas = find("heat");
  const [{ cells: first }] = view.rows;
  const room = canvas.parentElement.clientWidth - (view.engine.ranks - 1) * GAP;
  view.size = Math.min(28, Math.max(3, Math.floor(room / first.length)));
  view.high = view.rows.length > 16 ? 8 : 18;
  const width = left(first.length - 1) + view.size;
  const height = view.rows.length * view.high;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const brush = canvas.getContext("2d");
  brush.scale(ratio, ratio);
  view.rows.forEach(({ cells: row }, y) => row.forEach((cell, x) => paint(brush, cell, x, y)));
  describe();
}

/** Where the cell of a slot begins [px]. */
function left(slot) {
  const each = view.rows[0].cells.length / view.engine.ranks;
  return slot * view.size + Math.floor(slot / each) * GAP;
}

function paint(brush, cell, x, y) {
  const [from, top, seam] = [left(x), y * view.high, view.size > 4 ? 1 : 0];
  brush.fillStyle = colour(cell.load);
  brush.fillRect(from, top, view.size - seam, view.high - 1);
  if (cell.copies > 1) {
    brush.fillStyle = cell.load > MOST / 2 ? "#000" : "#fff";
    brush.fillRect(from + 1, top + 1, Math.min(3, view.size - 1), Math.min(3, view.high - 2));
  }
  if (view.at?.x === x && view.at?.y === y) {
    brush.strokeStyle = "#ff5a36";
    brush.lineWidth = 2;
    brush.strokeRect(from + 1, top + 1, view.size - seam - 2, view.high - 3);
  }
}

function describe() {
  const busiest = view.rows.flatMap(({ layer, cells: row }) => row.map((cell) => ({ layer, cell }))).reduce((a, b) => (b.cell.load > a.cell.load ? b : a));
  const heat = `${view.rows.length} layers, ${view.rows[0].cells.length} places. Busiest: ${words(busiest.layer, busiest.cell)}`;
  find("heat").setAttribute("aria-label", heat);
  const row = view.at && view.rows[view.at.y];
  find("cell").textContent = row?.cells[view.at.x] ? words(row.layer, row.cells[view.at.x]) : `busiest: ${words(busiest.layer, busiest.cell)}`;
}

function bars(sums) {
  const [most, mean] = [Math.max(...sums), sums.reduce((a, b) => a + b, 0) / sums.length];
  const list = find("bars");
  while (list.children.length > sums.length) list.lastChild.remove();
  while (list.children.length < sums.length) {
    const item = document.createElement("li");
    item.append(document.createElement("span"), document.createElement("i"), document.createElement("span"));
    list.append(item);
  }
  sums.forEach((rows, rank) => {
    const [name, bar, text] = list.children[rank].children;
    name.textContent = `rank ${rank}`;
    bar.style.width = `${most ? (rows / most) * 100 : 0}%`;
    text.textContent = `${Math.round(rows).toLocaleString("en")} rows, ${(mean ? rows / mean : 0).toFixed(2)} ×`;
  });
}

function trend(found) {
  const [first, last] = [found[0], found.at(-1)];
  find("line").firstElementChild.setAttribute("points", points(found, 600, 120));
  find("trend-from").textContent = `${Math.round(last[0] - first[0])} s ago: ${first[1].toFixed(2)}`;
  find("trend-now").textContent = `now: ${last[1].toFixed(2)}`;
  find("line").setAttribute("aria-label", `from ${first[1].toFixed(2)} to ${last[1].toFixed(2)}`);
}

const gain = (value) => (value === null ? "being measured" : `${((value - 1) * 100).toFixed(1)} %`);

function moves(engine) {
  const off = engine.eplb === "off";
  find("rebalance").hidden = off;
  find("rebalance").disabled = engine.moving;
  find("moved").hidden = engine.moved.length === 0;
  let hint = engine.eplb === "auto" ? "Experts follow their load by themselves." : "Experts move when asked.";
  if (off) hint = "Experts stay where they are: eplb is off.";
  if (engine.moving) hint = "Experts are being loaded; they move between two steps.";
  if (find("moves-hint").textContent !== hint) find("moves-hint").textContent = hint;
  const body = find("moved").tBodies[0];
  body.replaceChildren(
    ...[...engine.moved].reverse().map((move) => {
      const row = document.createElement("tr");
      const change = `${move.imbalance_before.toFixed(2)} → ${move.imbalance_after.toFixed(2)}`;
      for (const text of [move.step, move.moves, change, gain(move.predicted_gain), gain(move.measured_gain)]) {
        row.insertCell().textContent = text;
      }
      return row;
    }),
  );
}

function look(x, y) {
  const row = view.rows[y];
  if (!row) return;
  view.at = { x: Math.min(Math.max(x, 0), row.cells.length - 1), y };
  draw();
}

find("heat").addEventListener("pointermove", (event) => {
  const slot = view.rows[0]?.cells.findLastIndex((_, slot) => left(slot) <= event.offsetX) ?? 0;
  look(slot, Math.floor(event.offsetY / view.high));
});
find("heat").addEventListener("pointerleave", () => {
  view.at = null;
  if (view.rows.length) draw();
});
find("heat").addEventListener("keydown", (event) => {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step) return;
  event.preventDefault();
  look((view.at?.x ?? 0) + step[0], Math.max(0, (view.at?.y ?? 0) + step[1]));
});
find("engine").addEventListener("change", () => (view.at = null));
find("before").addEventListener("change", () => show(view.engine));
find("rebalance").addEventListener("click", async () => {
  find("rebalance").disabled = true;
  try {
    await rebalance(find("engine").value);
  } catch (error) {
    say("lost", error.message);
  }
});

const legend = find("legend").getContext("2d");
for (let x = 0; x < 160; x += 1) {
  legend.fillStyle = colour((x / 160) * MOST);
  legend.fillRect(x, 0, 1, 10);
}
find("legend-most").textContent = `${MOST} × the mean of the layer, or more`;
refresh();
