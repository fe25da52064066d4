// What is shown, as files: CSV and JSON of figures, PNG of a plot.

const quoted = (cell) => (/[",\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell);
const plain = (value) => (value === null || value === undefined ? "" : String(value));

/** Rows under a head, as CSV. */
export const csv = ({ head, rows }) => [head, ...rows].map((row) => row.map((cell) => quoted(plain(cell))).join(",")).join("\n") + "\n";

/** The figures of a plot as a table: a row for each point of each series. */
export function figures(plot) {
  const value = plot.y_label || "value";
  const noted = Object.keys(plot.notes).length > 0;
  const spread = plot.series.some((one) => one.low.length);
  const ends = plot.series.some((one) => one.kind === "bars" && one.low.length) ? ["from", "to"] : ["low", "high"];
  const across = plot.categories.length ? plot.x_label || "of" : plot.x_label;
  const head = ["series", across, value, ...(spread ? ends : []), ...(noted ? ["note"] : [])];
  const rows = plot.series.flatMap((one) =>
    one.points.map(([x, y], i) => [
      one.name,
      plot.categories.length ? plot.categories[x] : x,
      y,
      ...(spread ? [one.low[i] ?? null, one.high[i] ?? null] : []),
      ...(noted ? [plot.notes[one.name]?.[i] ?? ""] : []),
    ]),
  );
  return { title: plot.title, head, rows };
}

/** Hand a file to whoever looks at the page. */
export function download(name, content, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content instanceof Blob ? content : new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

/** A drawn plot with its title and key, as a PNG blob. `drawn`: of plots.js. */
export function picture(plot, drawn, theme, footer) {
  const ratio = window.devicePixelRatio || 1;
  const source = drawn.canvas;
  const [width, margin] = [source.width / ratio, 16];
  const canvas = document.createElement("canvas");
  const brush = canvas.getContext("2d");
  brush.font = `12px ${theme.font}`;
  const keys = placed(drawn.key, brush, width);
  const top = margin + 24 + 18 * (1 + Math.max(...keys.map(({ row }) => row), 0)) + (plot.sideways ? 0 : 20);
  const height = top + source.height / ratio + 28;
  Object.assign(canvas, { width: (width + 2 * margin) * ratio, height: height * ratio });
  brush.scale(ratio, ratio);
  brush.fillStyle = theme.raised;
  brush.fillRect(0, 0, width + 2 * margin, height);
  const write = (text, x, y, colour, font) => {
    Object.assign(brush, { fillStyle: colour, font: `${font} ${theme.font}` });
    brush.fillText(text, x, y);
  };
  write(plot.title, margin, margin + 12, theme.ink, "600 15px");
  for (const { name, colour, x, row } of keys) {
    brush.fillStyle = colour;
    brush.fillRect(margin + x, margin + 24 + 18 * row, 9, 9);
    write(name, margin + x + 14, margin + 33 + 18 * row, theme.dim, "12px");
  }
  write(plot.sideways ? "" : plot.y_label, margin, top - 6, theme.dim, "12px");
  brush.drawImage(source, margin, top, width, source.height / ratio);
  write(footer, margin, height - 10, theme.dim, "11px");
  return new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
}

/** Entries of a key in rows of a width: [{name, colour, x, row}]. */
function placed(key, brush, width) {
  let [x, row] = [0, 0];
  return key.map(({ name, colour }) => {
    const wide = brush.measureText(name).width + 32;
    if (x > 0 && x + wide > width) [x, row] = [0, row + 1];
    const at = { name, colour, x, row };
    x += wide;
    return at;
  });
}
