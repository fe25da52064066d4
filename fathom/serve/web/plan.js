// The planner's page: inputs, one question for each section that they change, and its answer in words, plots and tables.

import { plan } from "./api.js";
import { Fields } from "./fields.js";
import { csv, download, figures, picture } from "./keep.js";
import { rest, said, valued } from "./numbers.js";
import { draw, theme } from "./plots.js";

const WAIT_MS = 300; // after the last key
const find = (id) => document.getElementById(id);
const sections = new Map(); // name of a work -> what is known of its section
let fields;
let timer;

const made = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};

function say(state, text) {
  find("connection").dataset.state = state;
  if (find("connection-text").textContent !== text) find("connection-text").textContent = text;
}

async function begin() {
  try {
    const { groups, works } = await plan("inputs");
    fields = new Fields(find("form"), groups, changed);
    fields.take(location.search);
    for (const work of works) sections.set(work.name, section(work));
    find("answers").replaceChildren(...[...sections.values()].map(({ box }) => box));
    refresh();
  } catch (error) {
    say("lost", error.message);
  }
}

function section({ name, title, uses, slow }) {
  const heading = made("h2", { id: `${name}-title`, textContent: title });
  const box = made("section", { id: name }, heading, made("p", { className: "says" }));
  box.setAttribute("aria-labelledby", heading.id);
  return { name, title, uses, slow, box, asked: null, stop: null, answer: null, drawn: [] };
}

function changed() {
  say("loading", "working it out");
  clearTimeout(timer);
  timer = setTimeout(refresh, WAIT_MS);
}

/** Ask again what the inputs have changed; quick questions first, since they are answered in turn. */
function refresh() {
  const query = fields.query();
  history.replaceState(null, "", query ? `${location.pathname}?${query}` : location.pathname);
  find("facts").textContent = `${fields.text("model")} on ${find("in-gpu").selectedOptions[0]?.textContent ?? ""}`;
  fields.blame();
  const ordered = [...sections.values()].sort((a, b) => Number(a.slow) - Number(b.slow));
  for (const one of ordered) ask(one, fields.query(one.uses));
  settled();
}

async function ask(one, query) {
  if (one.asked === query) {
    if (one.param) fields.blame(one.param, one.trouble);
    return;
  }
  one.stop?.abort();
  one.stop = new AbortController();
  one.asked = query;
  one.box.setAttribute("aria-busy", "true");
  const { signal } = one.stop;
  try {
    const answer = await plan(query ? `${one.name}?${query}` : one.name, signal);
    if (signal.aborted) return;
    Object.assign(one, { answer, param: null, trouble: "" });
    show(one);
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    refuse(one, error);
  }
  one.box.removeAttribute("aria-busy");
  settled();
}

function settled() {
  const all = [...sections.values()];
  const busy = all.filter(({ box }) => box.hasAttribute("aria-busy")).length;
  if (busy) say("loading", "working it out");
  else if (all.some(({ lost }) => lost)) say("lost", "not all could be worked out");
  else say("ready", all.some(({ trouble }) => trouble) ? "an input needs another value" : "up to date");
}

/** Why there is no answer, in the place of one. */
function refuse(one, error) {
  forget(one);
  Object.assign(one, { answer: null, param: error.param ?? null, trouble: error.message, lost: error.status !== 400 });
  if (one.lost) one.asked = null; // it may be asked again
  const notice = made("p", { className: "trouble", textContent: error.message });
  notice.setAttribute("role", "status");
  one.box.replaceChildren(one.box.firstElementChild, notice);
  if (error.param) fields.blame(error.param, error.message);
}

function forget(one) {
  for (const each of one.drawn) each.destroy();
  Object.assign(one, { drawn: [], lost: false });
}

/** The answer of a section; tables that were open stay open. */
function show(one) {
  const { answer, box } = one;
  const open = new Set([...box.querySelectorAll("details[open]")].map(({ dataset }) => dataset.name));
  forget(one);
  const says = made("p", { className: "says", textContent: answer.says });
  says.dataset.state = answer.state;
  const plots = made("div", { className: "plots" });
  const tables = made("div", { className: "tables" }, data(one, "numbers", numbersTable(answer)), ...answer.tables.map((table, i) => data(one, `table-${i}`, table)));
  box.replaceChildren(box.firstElementChild, says, numbers(answer.numbers), lines(answer.lines), plots, tables);
  for (const plot of answer.plots) {
    const figure = figureOf(one, plot);
    plots.append(figure.element);
    one.drawn.push(figure.draw());
  }
  for (const each of box.querySelectorAll("details.data")) each.open = open.has(each.dataset.name);
}

function numbers(list) {
  return made("dl", { className: "numbers" }, ...list.map((one) => {
    const [value, unit] = [said(one.value), one.unit === "1" ? "" : ` ${one.unit}`];
    const big = made("dd", {}, made("b", { textContent: value }), unit);
    const cell = made("div", { title: [one.meaning, one.note].filter(Boolean).join("\n") }, made("dt", { textContent: one.title }), big);
    cell.append(made("dd", { className: "rest", textContent: rest(one) }));
    return cell;
  }));
}

const lines = (list) => made("ul", { className: "lines" }, ...list.map((text) => made("li", { textContent: text })));

function numbersTable({ numbers: list }) {
  const head = ["number", "value", "low 80 %", "high 80 %", "unit", "meaning", "bound by", "source", "from"];
  const rows = list.map((one) => [one.title, one.value, one.low ?? null, one.high ?? null, one.unit, one.meaning ?? "", one.bound ?? "", one.source, one.note ?? ""]);
  return { title: "The numbers with their sources", head, rows };
}

/** A table that is folded away, with its CSV. */
function data(one, name, table) {
  const details = made("details", { className: "data" }, made("summary", { textContent: table.title }));
  details.dataset.name = name;
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const file = `fathom-${one.name}-${name}.csv`;
    details.append(made("div", { className: "keep" }, button("CSV", `${table.title} as CSV`, () => download(file, csv(table), "text/csv"))), tableOf(table));
  });
  return details;
}

function tableOf({ title, head, rows }) {
  const texts = head.map((_, i) => rows.some((row) => typeof row[i] === "string" && row[i] !== ""));
  const cell = (tag, value, i) => made(tag, { textContent: tag === "th" ? value : said(value), className: texts[i] ? "text" : "" });
  const table = made("table", {},
    made("caption", { className: "unseen", textContent: title }),
    made("thead", {}, made("tr", {}, ...head.map((name, i) => Object.assign(cell("th", name, i), { scope: "col" })))),
    made("tbody", {}, ...rows.map((row) => made("tr", {}, ...row.map((value, i) => cell("td", value, i))))),
  );
  const scroll = made("div", { className: "scroll", tabIndex: 0 }, table);
  scroll.setAttribute("role", "group");
  scroll.setAttribute("aria-label", title);
  return scroll;
}

function button(text, label, act) {
  const made_ = made("button", { type: "button", textContent: text, title: label });
  made_.setAttribute("aria-label", label);
  made_.addEventListener("click", act);
  return made_;
}

/** A plot with its title, key, words of the place that is looked at, files, and its table. */
function figureOf(one, plot) {
  const id = `plot-${plot.name}`;
  const heading = made("h3", { id, textContent: plot.title });
  const files = made("div", { className: "keep" });
  const key = made("ul", { className: "key" });
  const box = made("div", { className: "plot", tabIndex: 0 });
  const point = made("output", { className: Object.keys(plot.notes).length ? "point noted" : "point" });
  const up = made("p", { className: "up", textContent: plot.sideways ? "" : plot.y_label });
  const element = made("figure", { id: `figure-${plot.name}` }, made("figcaption", {}, heading, files), key, ...(plot.sideways ? [] : [up]), box, point, data(one, plot.name, { ...figures(plot), title: "Table" }));
  element.setAttribute("aria-labelledby", id);
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", described(plot));
  const hint = "Point, or use the arrow keys.";
  const picked = (words) => (point.textContent = words || hint);
  let drawn;
  files.append(
    button("PNG", `${plot.title} as PNG`, async () => download(`fathom-${plot.name}.png`, await picture(plot, drawn, theme(), find("facts").textContent))),
    button("CSV", `${plot.title} as CSV`, () => download(`fathom-${plot.name}.csv`, csv(figures(plot)), "text/csv")),
    button("JSON", `${plot.title} as JSON`, () => download(`fathom-${plot.name}.json`, JSON.stringify({ asked: one.answer.asked, plot }, null, 1), "application/json")),
  );
  box.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -1e9, End: 1e9 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    drawn.step(by);
  });
  return {
    element,
    draw() {
      drawn = draw(box, plot, theme(), picked);
      key.replaceChildren(...keyOf(drawn.key));
      key.hidden = drawn.key.length < 2;
      picked("");
      return { destroy: () => drawn.destroy(), redraw: () => { drawn.destroy(); this.draw(); } };
    },
  };
}

const keyOf = (key) => key.map(({ name, colour, kind }) => {
  const mark = made("i", { className: kind });
  mark.style.background = colour;
  return made("li", {}, mark, name);
});

/** What a plot shows, for those who do not see it; its figures are in the table below. */
function described(plot) {
  const parts = plot.series.map((one) => {
    const values = one.points.map(([, y]) => y);
    return `${one.name}: ${one.points.length} values from ${said(Math.min(...values))} to ${said(Math.max(...values))}`;
  });
  return `${plot.title}. ${plot.y_label}. ${parts.join(". ")}. The figures are in the table below.`;
}

find("link").addEventListener("click", async () => {
  const told = await navigator.clipboard?.writeText(location.href).then(() => "Copied", () => "It is in the address bar");
  find("link").textContent = told ?? "It is in the address bar";
  setTimeout(() => (find("link").textContent = "Copy link"), 2000);
});
find("reset").addEventListener("click", () => {
  fields.take("");
  refresh();
});
window.addEventListener("popstate", () => {
  fields?.take(location.search);
  if (fields) refresh();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const one of sections.values()) for (const each of one.drawn) each.redraw();
});
if (matchMedia("(max-width: 64rem)").matches) find("ask").open = false;
begin();
