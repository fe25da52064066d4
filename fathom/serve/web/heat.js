// The load of experts as cells of a picture: what lies where, how busy it is, and in which colour that is shown.

/** Times the mean of its layer at which colours end. */
export const MOST = 4;

// Viridis (matplotlib, CC0): lighter is more, for every kind of sight, on dark and on light paper.
const STOPS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

/** The colour of a load, in times the mean of its layer. */
export function colour(load) {
  const at = (Math.min(Math.max(load, 0), MOST) / MOST) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  const mixed = STOPS[low].map((part, i) => Math.round(part + (STOPS[low + 1][i] - part) * (at - low)));
  return `rgb(${mixed.join(" ")})`;
}

/**
 * Rows of cells, one row per layer: {layer, cells: [{expert, rank, copy, copies, rows, load}]}.
 * Copies of an expert share its rows evenly; `load` is in times the mean cell of the layer.
 */
export function cells(engine, before = false) {
  const placements = before ? engine.placements_before : engine.placements;
  return Object.entries(engine.load).map(([layer, rows]) => {
    const slots = placements?.[layer] ?? engine.placements?.[layer] ?? rows.map((_, expert) => expert);
    const copies = rows.map(() => 0);
    for (const expert of slots) copies[expert] += 1;
    const mean = rows.reduce((sum, each) => sum + each, 0) / slots.length;
    const seen = rows.map(() => 0);
    return {
      layer: Number(layer),
      cells: slots.map((expert, slot) => ({
        expert,
        rank: Math.floor((slot * engine.ranks) / slots.length),
        copy: (seen[expert] += 1),
        copies: copies[expert],
        rows: rows[expert] / copies[expert],
        load: mean ? rows[expert] / copies[expert] / mean : 0,
      })),
    };
  });
}

/** Rows that each rank computes in all layers. */
export function rankRows(rows, ranks) {
  const sums = Array(ranks).fill(0);
  for (const { cells } of rows) for (const cell of cells) sums[cell.rank] += cell.rows;
  return sums;
}

/** The points of a line through a trend [[seconds, value]], in a box; the value 1 lies on its lower edge. */
export function points(trend, width, height) {
  const [first, last] = [trend[0][0], trend.at(-1)[0]];
  const most = Math.max(1.2, ...trend.map(([, value]) => value));
  return trend
    .map(([at, value]) => {
      const x = last > first ? ((at - first) / (last - first)) * width : width;
      return `${x.toFixed(1)},${(height - 2 - ((value - 1) / (most - 1)) * (height - 4)).toFixed(1)}`;
    })
    .join(" ");
}

/** A cell in words. */
export function words(layer, cell) {
  const copy = cell.copies > 1 ? `, copy ${cell.copy} of ${cell.copies}` : "";
  const rows = Math.round(cell.rows).toLocaleString("en");
  return `layer ${layer}, expert ${cell.expert}${copy}, rank ${cell.rank}: ${rows} rows, ${cell.load.toFixed(2)} × the mean`;
}
