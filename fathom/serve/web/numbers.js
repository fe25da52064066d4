// Numbers as people read them.

const SCALES = [[1e15, " quadrillion"], [1e12, " T"], [1e9, " bn"], [1e6, " M"]];

/** Three significant digits, thousands separated: 20.1, 1,211, 70,656, 12.3 M, 512 bn. */
export function said(value) {
  if (typeof value !== "number") return value === null || value === undefined ? "–" : String(value);
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-4) return value.toExponential(2);
  const [scale, word] = size >= 1e7 ? SCALES.find(([least]) => size >= least) : [1, ""];
  const digits = value / scale;
  const before = Math.floor(Math.log10(Math.abs(digits))) + 1;
  const after = Math.max(0, 3 - before);
  const least = Number.isInteger(digits) ? 0 : after;
  return digits.toLocaleString("en", { minimumFractionDigits: least, maximumFractionDigits: after }) + word;
}

/** Beside an axis: short, and as precise as its neighbours need. */
export function tick(value) {
  const size = Math.abs(value);
  for (const [scale, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= scale) return `${round(value / (letter === "k" ? 1e3 : scale))}${letter}`;
  }
  return round(value);
}

const round = (value) => String(Number(value.toPrecision(6)));

/** A quantity's value with its unit; "1" is a ratio's. */
export const valued = ({ value, unit }) => (unit === "1" ? said(value) : `${said(value)} ${unit}`);

/** The small line below it: interval, what bounds it, how it was come by. */
export function rest({ low, high, bound, source }) {
  const parts = low === undefined ? [] : [`80 %: ${said(low)} to ${said(high)}`];
  if (bound) parts.push(`bound by ${bound}`);
  return [...parts, source].join(" · ");
}
