// A chart of the planner, drawn with uPlot: lines with bands, dots with whiskers, bars; upright or sideways.

import uPlot from "./vendor/uPlot.esm.js";
import { said, tick } from "./numbers.js";

const HEIGHT = 280; // of an upright plot [px]
const [ROW, DENSE] = [30, 20]; // of a sideways one, for each category, and for each of many [px]
const FRONTIER = "#c9ced4"; // how the server marks a line in the background

/** Colours of the page as it is now, for a canvas. */
export function theme() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(`--${name}`).trim();
  const palette = [1, 2, 3, 4, 5, 6].map((i) => of(`plot-${i}`));
  const font = style.getPropertyValue("--sans").trim();
  return { palette, font, faint: of("plot-faint"), mark: of("plot-mark"), ink: of("ink"), dim: of("dim"), line: of("line"), raised: of("raised") };
}

/** Each series with its colour. */
function coloured(series, { palette, faint, mark }) {
  let next = 0;
  return series.map((one) => {
    if (one.colour) return { ...one, paint: one.colour === FRONTIER ? faint : mark };
    return { ...one, paint: palette[next++ % palette.length] };
  });
}

/** [least, most] of numbers with some air; from 0 where that is near. */
function reach(values, log, air) {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  if (log) return [low / 1.25, high * 1.25];
  const span = high - low || Math.abs(high) || 1;
  const from = low >= 0 && low < 0.6 * high + 1e-300 ? 0 : low - air * span;
  return [from, high <= 0 && low < 0 ? 0 : high + air * span];
}

/**
 * Draw into a box. `picked` hears which place along the x axis is looked at, as words.
 * Gives {canvas, key, step, destroy}: `step` moves the cursor by so many places.
 */
export function draw(box, given, colours, picked) {
  const plot = { ...given, log_y: given.log_y && heights(given).every((value) => value > 0) };
  const series = coloured(plot.series, colours);
  const places = [...new Set(series.flatMap(({ points }) => points.map(([x]) => x)))].sort((a, b) => a - b);
  const rows = plot.categories.length;
  const at = series.map(({ points }) => new Map(points.map(([x], i) => [x, i])));
  const aligned = (values, one) => places.map((x) => (at[one].has(x) ? values(at[one].get(x)) : null));
  const data = [places];
  const shown = [{}];
  const bands = [];
  series.forEach((one, i) => {
    data.push(aligned((k) => one.points[k][1], i));
    shown.push(look(one));
    if (one.kind !== "line" || !one.low.length) return;
    data.push(aligned((k) => one.high[k], i), aligned((k) => one.low[k], i));
    bands.push({ series: [data.length - 2, data.length - 1], fill: `color-mix(in srgb, ${one.paint} 18%, transparent)` });
    shown.push({ paths: uPlot.paths.linear(), stroke: "transparent", points: { show: false } }, { paths: uPlot.paths.linear(), stroke: "transparent", points: { show: false } });
  });
  const values = heights(plot);
  const words = (index) => (index === null || index === undefined ? "" : sayings(plot, series, at, places[index]));
  const options = {
    width: Math.max(200, box.clientWidth),
    height: plot.sideways ? (rows > 12 ? DENSE : ROW) * rows + 60 : HEIGHT,
    padding: [10, 14, 0, 0],
    legend: { show: false },
    scales: scales(plot, places, values),
    axes: axes(plot, colours, box.clientWidth),
    series: shown,
    bands,
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 9, width: 2, fill: colours.raised, stroke: (u, i) => u.series[i]._paint ?? "transparent" } },
    hooks: {
      drawAxes: [(u) => bars(u, series, plot)],
      draw: [(u) => trimmings(u, series, plot, colours)],
      setCursor: [(u) => picked(words(u.cursor.left < 0 ? null : u.cursor.idx))],
    },
  };
  const u = new uPlot(options, data, box);
  const watcher = new ResizeObserver(() => box.clientWidth && Math.abs(box.clientWidth - u.width) > 1 && u.setSize({ width: box.clientWidth, height: u.height }));
  watcher.observe(box);
  let index = -1;
  return {
    canvas: u.ctx.canvas,
    key: series.map(({ name, paint, kind }) => ({ name, colour: paint, kind })),
    step(by) {
      index = Math.min(Math.max(index + by, 0), places.length - 1);
      const along = u.valToPos(places[index], "x");
      const middle = (plot.sideways ? u.over.clientWidth : u.over.clientHeight) / 2;
      u.setCursor(plot.sideways ? { left: middle, top: along } : { left: along, top: middle });
    },
    destroy() {
      watcher.disconnect();
      u.destroy();
    },
  };
}

/** All that the y axis must hold: values, ends of intervals, and 0 where bars begin there. */
function heights({ series }) {
  return series.flatMap((one) => [...one.points.map(([, y]) => y), ...one.low, ...one.high, ...(one.kind === "bars" && !one.low.length ? [0] : [])]);
}

/** How uPlot shows a series; bars are ours. */
function look(one) {
  const common = { label: one.name, stroke: one.paint, _paint: one.paint, spanGaps: true, width: 2 };
  if (one.kind === "line") return { ...common, points: { show: false } };
  return { ...common, paths: () => null, points: { show: one.kind === "dots", size: 7, width: 0, fill: one.paint, space: 0 } };
}

function scales(plot, places, values) {
  const rows = plot.categories.length;
  const along = rows ? [-0.6, rows - 0.4] : reach(places, plot.log_x, 0.03);
  const across = reach(values, plot.log_y, 0.06);
  return {
    x: { time: false, ori: plot.sideways ? 1 : 0, dir: plot.sideways ? -1 : 1, distr: plot.log_x ? 3 : 1, range: () => along },
    y: { ori: plot.sideways ? 0 : 1, distr: plot.log_y ? 3 : 1, range: () => across },
  };
}

/** 1, 2 and 5 of each decade, or powers of ten where those are many. */
function decades(low, high) {
  const steps = Math.log10(high / low) < 2.5 ? [1, 2, 5] : [1];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power += 1) {
    for (const step of steps) found.push(Number(`${step}e${power}`));
  }
  return found.filter((value) => value >= low && value <= high);
}

function axes(plot, colours, width) {
  const font = `12px ${colours.font}`;
  const common = { stroke: colours.dim, font, labelFont: font, ticks: { show: false }, grid: { stroke: colours.line, width: 1 } };
  const numbers = (u, splits) => splits.map((value) => (value === null ? null : tick(value)));
  const x = { ...common, scale: "x", side: plot.sideways ? 3 : 2, values: numbers, ...(plot.sideways ? {} : { size: 30 }) };
  const y = { ...common, scale: "y", side: plot.sideways ? 2 : 3, values: numbers, size: plot.sideways ? 28 : 52, space: plot.sideways ? 56 : 36 };
  for (const [axis, log] of [[x, plot.log_x], [y, plot.log_y]]) {
    if (!log) continue;
    axis.splits = (u) => decades(u.scales[axis.scale].min, u.scales[axis.scale].max);
    axis.filter = (u, splits) => splits;
  }
  if (plot.categories.length) {
    const brush = document.createElement("canvas").getContext("2d");
    brush.font = font;
    const [wide, most] = [(name) => brush.measureText(name).width, 0.42 * width];
    const short = (name) => {
      let kept = name.length;
      while (kept > 1 && wide(name.slice(0, kept)) > most) kept -= 1;
      return kept < name.length ? `${name.slice(0, kept - 1)}…` : name;
    };
    x.splits = () => plot.categories.map((_, i) => i);
    x.values = () => plot.categories.map(short);
    x.grid = { show: false };
    if (plot.sideways) x.size = 14 + Math.max(...plot.categories.map((name) => wide(short(name))));
  }
  const label = { labelSize: 18, labelGap: 0 };
  if (plot.sideways && plot.y_label) Object.assign(y, { label: plot.y_label, ...label });
  if (!plot.sideways && plot.x_label) Object.assign(x, { label: plot.x_label, ...label });
  return [x, y];
}

/** Bars from 0, or from low to high; beside each other where they start at 0 and share a place. */
function bars(u, series, plot) {
  const all = series.filter(({ kind }) => kind === "bars");
  const crowded = all.filter(({ low }) => !low.length);
  const shared = new Set(crowded.flatMap(({ points }) => points.map(([x]) => x))).size < crowded.reduce((sum, { points }) => sum + points.length, 0);
  for (const one of all) {
    const among = shared && !one.low.length ? crowded.length : 1;
    const wide = 0.66 / among;
    const middle = among > 1 ? (crowded.indexOf(one) - (among - 1) / 2) * wide : 0;
    u.ctx.fillStyle = one.paint;
    one.points.forEach(([x, y], i) => {
      const [from, to] = one.low.length ? [one.low[i], one.high[i]] : [0, y];
      const along = [x + middle - wide / 2, x + middle + wide / 2].map((value) => u.valToPos(value, "x", true));
      const across = [from, to].map((value) => u.valToPos(value, "y", true));
      const [[left, right], [top, bottom]] = plot.sideways ? [across, along] : [along, across];
      u.ctx.fillRect(Math.min(left, right), Math.min(top, bottom), Math.abs(right - left), Math.abs(bottom - top));
    });
  }
}

/** Whiskers of dots, and words beside points. */
function trimmings(u, series, plot, colours) {
  const ratio = window.devicePixelRatio || 1;
  const place = (x, y) => (plot.sideways ? [u.valToPos(y, "y", true), u.valToPos(x, "x", true)] : [u.valToPos(x, "x", true), u.valToPos(y, "y", true)]);
  for (const one of series) {
    if (one.kind === "dots" && one.low.length) {
      Object.assign(u.ctx, { strokeStyle: one.paint, lineWidth: 1.5 * ratio });
      one.points.forEach(([x], i) => {
        u.ctx.beginPath();
        u.ctx.moveTo(...place(x, one.low[i]));
        u.ctx.lineTo(...place(x, one.high[i]));
        u.ctx.stroke();
      });
    }
    one.labels.forEach((word, i) => {
      const [left, top] = place(...one.points[i]);
      const end = left > u.bbox.left + 0.7 * u.bbox.width;
      Object.assign(u.ctx, { fillStyle: colours.ink, font: `${12 * ratio}px ${colours.font}`, textAlign: end ? "right" : "left" });
      u.ctx.fillText(word, left + (end ? -8 : 8) * ratio, top - 7 * ratio);
    });
  }
}

/** Everything at one place along the x axis, in words. */
function sayings(plot, series, at, x) {
  const unit = (label) => label.match(/\[(.*)\]/)?.[1] ?? "";
  const [across, along] = [unit(plot.y_label) || (plot.y_label.length < 12 ? plot.y_label : ""), unit(plot.x_label)];
  const head = plot.categories.length ? plot.categories[x] : `${said(x)} ${along || plot.x_label}`;
  const parts = series.flatMap((one, i) => {
    const index = at[i].get(x);
    if (index === undefined || (one.colour === FRONTIER && one.kind === "line")) return [];
    const [, y] = one.points[index];
    const span = one.low.length && one.kind !== "bars" ? ` (${said(one.low[index])} to ${said(one.high[index])})` : "";
    const note = plot.notes[one.name]?.[index];
    return [`${one.name} ${said(y)}${across ? ` ${across}` : ""}${span}${note ? `, ${note}` : ""}`];
  });
  return `${head}: ${parts.join("; ")}`;
}
