// Lines over the last minutes, drawn by uPlot. Knows numbers and their labels; a null is a moment of which nothing is known.

import { el } from "./dom.js";
import uPlot from "./vendor/uplot/uPlot.esm.js";

const HEIGHT = 160;
const COLOURS = ["first", "second"];
const STEPS_SECONDS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];

export class Timeline {
  #name;
  #format;
  #top = 0;
  #plot;
  #now = el("span", { className: "chart-now" });
  #box = el("div", { className: "chart-box", role: "img" });

  /** series: names of at most two lines; format: a number as words for people */
  constructor(figure, { name, series, format }) {
    this.#name = name;
    this.#format = format;
    figure.append(el("figcaption", {}, el("span", { className: "chart-name" }, name), this.#now), this.#box);
    this.#plot = new uPlot(this.#options(series), [[0], ...series.map(() => [null])], this.#box);
    new ResizeObserver(() => this.#plot.setSize(this.#size())).observe(this.#box);
    // A canvas does not follow the style sheet by itself.
    new MutationObserver(() => this.#plot.redraw(false)).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#plot.redraw(false));
  }

  /** times: seconds, rising; columns: a list of numbers per line; now: what stands in large letters; top: of the axis */
  draw(times, columns, { now, unit = "", top = 0 }) {
    const last = times.at(-1);
    const greatest = columns.flat().reduce((most, value) => Math.max(most, value ?? 0), 0);
    this.#top = top;
    this.#now.replaceChildren(now, el("small", {}, unit && ` ${unit}`));
    this.#box.setAttribute("aria-label", `${this.#name}, ${ago(last - times[0])} to now: now ${now} ${unit}, at most ${this.#format(greatest)}`);
    this.#plot.setData([times.map((at) => at - last), ...columns]);
  }

  #size() {
    return { width: Math.max(120, this.#box.clientWidth), height: HEIGHT };
  }

  #options(series) {
    const axis = { stroke: () => this.#shade("axis"), font: `11px ${getComputedStyle(document.body).fontFamily}`, ticks: { show: false } };
    const grid = { stroke: () => this.#shade("grid"), width: 1 };
    return {
      ...this.#size(),
      padding: [10, 16, 0, 0],
      cursor: { sync: { key: "status" }, drag: { x: false, y: false }, y: false },
      legend: { markers: { width: 0, fill: () => "" } }, // the style sheet has their colours
      scales: { x: { time: false }, y: { range: (_, __, most) => [0, Math.max(this.#top, most ?? 0) || 1] } },
      axes: [
        { ...axis, grid: { show: false }, size: 24, space: 60, incrs: STEPS_SECONDS, values: (_, splits) => splits.map(moment) },
        { ...axis, grid, size: 62, space: 34, values: (_, splits) => splits.map(this.#format) },
      ],
      series: [{ label: "at", value: (_, at) => moment(at ?? 0) }, ...series.map((label, index) => this.#line(label, COLOURS[index]))],
    };
  }

  #line(label, colour) {
    return {
      label,
      width: 1.8,
      points: { show: false },
      stroke: () => this.#shade(colour),
      fill: () => this.#shade(`${colour}-area`),
      // Away from the pointer it tells the last value.
      value: (plot, value, index) => this.#words(value ?? plot.data[index].findLast((each) => each !== null)),
    };
  }

  #words(value) {
    return value === undefined || value === null ? "–" : this.#format(value);
  }

  /** A colour of the style sheet, as it is in the present theme. */
  #shade(name) {
    const probe = el("i", { className: `shade-${name}` });
    this.#box.append(probe);
    const { color } = getComputedStyle(probe);
    probe.remove();
    return color;
  }
}

function moment(at) {
  const seconds = Math.round(-at);
  if (seconds === 0) return "now";
  return seconds % 60 ? `−${seconds} s` : `−${seconds / 60} min`;
}

function ago(seconds) {
  return seconds >= 90 ? `${Math.round(seconds / 60)} min ago` : `${Math.round(seconds)} s ago`;
}
