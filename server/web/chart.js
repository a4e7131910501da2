// Lines over time as SVG. Knows numbers and their labels; a null is a moment of which nothing is known.

import { el, svg } from "./dom.js";

const WIDTH = 600;
const HEIGHT = 130;

export class Chart {
  #lines;
  #most = el("span", { className: "chart-most" });
  #now = el("span", { className: "chart-now" });
  #since = el("span", {});
  #picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  #name;
  #format;

  /** series: names of at most two lines; format: a number as words for people */
  constructor(figure, { name, series, format }) {
    this.#name = name;
    this.#format = format;
    for (const share of [0, 0.5, 1]) this.#picture.append(svg("line", { class: "grid", x1: 0, x2: WIDTH, y1: share * HEIGHT, y2: share * HEIGHT }));
    this.#lines = series.map((_, index) => {
      const colour = index ? "second" : "first";
      const [area, line] = [svg("path", { class: `area ${colour}` }), svg("path", { class: `line ${colour}` })];
      return { area, line };
    });
    // The first line is drawn over the second: it is the one that the large number is about.
    for (const { area, line } of this.#lines.toReversed()) this.#picture.append(area, line);
    const legend = el("span", { className: "legend" }, series.length > 1 ? series.map((each, index) => el("span", { className: index ? "second" : "first" }, each)) : []);
    figure.append(
      el("figcaption", {}, el("span", { className: "chart-name" }, name), this.#now),
      el("div", { className: "chart-box" }, this.#most, this.#picture),
      el("div", { className: "chart-foot" }, this.#since, legend, el("span", {}, "now")),
    );
  }

  /** times: seconds, rising; columns: a list of numbers per line; now: what stands in large letters; top: of the axis */
  draw(times, columns, { now, unit = "", top = 0 }) {
    const known = columns.flat().filter((value) => value !== null);
    const most = Math.max(top, round(known.reduce((greatest, value) => Math.max(greatest, value), 0)));
    this.#now.replaceChildren(now, el("small", {}, unit && ` ${unit}`));
    this.#most.textContent = most ? this.#format(most) : "";
    this.#since.textContent = ago(times.at(-1) - times[0]);
    this.#picture.setAttribute("aria-label", `${this.#name}, ${ago(times.at(-1) - times[0])} to now: now ${now} ${unit}, at most ${this.#format(Math.max(0, ...known))}`);
    const x = (index) => ((times[index] - times[0]) / (times.at(-1) - times[0] || 1)) * WIDTH;
    const y = (value) => HEIGHT - (value / (most || 1)) * HEIGHT;
    columns.forEach((column, index) => {
      const runs = knownRuns(column).map((run) => run.map((at) => `${x(at).toFixed(1)},${y(column[at]).toFixed(1)}`));
      const ends = knownRuns(column).map((run) => [x(run[0]), x(run.at(-1))]);
      this.#lines[index].line.setAttribute("d", runs.map((run) => `M${run.join("L")}`).join(""));
      this.#lines[index].area.setAttribute("d", runs.map((run, at) => `M${ends[at][0].toFixed(1)},${HEIGHT}L${run.join("L")}L${ends[at][1].toFixed(1)},${HEIGHT}Z`).join(""));
    });
  }
}

/** The places of neighbours that are known. */
function knownRuns(column) {
  const runs = [];
  column.forEach((value, at) => {
    if (value === null) return;
    if (at > 0 && column[at - 1] !== null && runs.length) runs.at(-1).push(at);
    else runs.push([at]);
  });
  return runs;
}

/** The next number of the form 1, 2 or 5 times a power of ten. */
function round(value) {
  if (value <= 0) return 0;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}

function ago(seconds) {
  return seconds >= 90 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds)} s ago`;
}
