"use strict";
// Shows what the series has. Every text is set as text, never as markup: statements and lines come from elsewhere.

const SPAN_MS = 300000; // what the charts show
const PERIOD_MS = 1000; // between two requests
const PATIENCE_MS = 5000; // for an answer
const KEY = "poolhouse-token";
const SVG = "http://www.w3.org/2000/svg";
const byId = (id) => document.getElementById(id);
const path = document.querySelector("meta[name=series]").content;

let steps = []; // of the pool with this id
let id = null;
let timer = null;
let isAsking = false;

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

function setText(element, text) {
  // Only where it has changed: screen readers announce every change.
  if (element.textContent !== text) element.textContent = text;
}

function time(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms >= 60000) return `${(ms / 60000).toFixed(1)} min`;
  if (ms >= 999.5) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms >= 9.95 ? ms.toFixed(0) : ms >= 0.095 ? ms.toFixed(1) : ms.toFixed(3)} ms`;
}

function count(number) {
  return number.toLocaleString("en", { maximumFractionDigits: number < 10 ? 1 : 0 });
}

const last = () => steps[steps.length - 1];
const sum = (of) => steps.reduce((total, step) => total + of(step), 0);
const failures = (step) => Object.values(step.errors).reduce((total, n) => total + n, 0);

// ---- asking

function ask(show) {
  byId("live").hidden = show;
  byId("login").hidden = !show;
}

function refuse(text) {
  sessionStorage.removeItem(KEY);
  ask(true);
  setText(byId("refused"), text);
  byId("token").focus();
}

function report(text, isLost) {
  const line = byId("connection");
  setText(line, text);
  line.className = isLost ? "lost" : "";
}

async function fetchSeries(token) {
  const since = steps.length ? `?since=${last().at_ms}` : "";
  const options = { headers: { Authorization: `Bearer ${token}` }, cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) };
  const answer = await fetch(path + since, options);
  if (answer.status === 401) {
    refuse("The service does not know this token.");
    report("Not connected", false);
    return null;
  }
  if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
  return answer.json();
}

async function round() {
  const token = sessionStorage.getItem(KEY);
  if (!token || isAsking || document.hidden) return;
  isAsking = true;
  try {
    const series = await fetchSeries(token);
    if (series) {
      take(series);
      ask(false);
      show(series);
      report("Live", false);
    }
  } catch (error) {
    const reason = error.name === "TimeoutError" ? `no answer in ${PATIENCE_MS / 1000} s` : error.message;
    report(`No contact with the service: ${reason}`, true);
  } finally {
    isAsking = false;
  }
}

function take(series) {
  if (series.id !== id) {
    [id, steps] = [series.id, []];
  }
  // The answer to a request that was sent without `since` has older steps as well.
  const known = steps.length ? last().at_ms : -1;
  steps = steps.concat(series.steps.filter((step) => step.at_ms > known));
  steps = steps.filter((step) => step.at_ms > series.now_ms - SPAN_MS - 2 * PERIOD_MS);
}

function watch() {
  clearInterval(timer);
  if (document.hidden) {
    report("Paused while hidden", false);
    return;
  }
  timer = setInterval(round, PERIOD_MS);
  round();
}

// ---- showing

function show(series) {
  const stats = series.report.pool_stats;
  setText(byId("name"), stats.name === "poolhouse" ? "" : stats.name);
  document.title = `${series.report.status} – poolhouse ${stats.name}`;
  showVerdict(series.report);
  showCells(series, stats);
  showCharts(series);
  showTables(series);
}

function showVerdict(report) {
  const status = byId("status");
  status.className = `status ${report.status}`;
  setText(status.querySelector(".word"), report.status);
  setText(status.querySelector(".usage"), report.recommendations.current_usage);
  list(byId("warnings"), report.warnings);
  list(byId("advice"), report.recommendations.advice);
  byId("nothing").hidden = report.warnings.length + report.recommendations.advice.length > 0;
  setText(byId("basis"), report.recommendations.basis);
}

function list(element, texts) {
  texts.forEach((text, i) => {
    if (!element.children[i]) element.append(make("li"));
    setText(element.children[i], text);
  });
  while (element.children.length > texts.length) element.lastChild.remove();
}

function showCells(series, stats) {
  const { idle, connecting, resetting, in_use: inUse, held } = series.connections;
  const leaks = new Set(series.leaks.map((leak) => leak.acquired_at));
  const shortest = series.leaks.length ? stats.long_held : 0;
  const cells = held.map((one, i) => {
    const isLong = i < shortest && leaks.has(one.acquired_at);
    return [isLong ? "long" : "busy", `${isLong ? "held " : ""}${time(one.held_ms)}`, one.acquired_at];
  });
  const add = (n, className, text) => { for (let i = 0; i < n && cells.length < 400; i++) cells.push([className, text, ""]); };
  add(resetting, "resetting", "resetting");
  add(connecting, "connecting", "connecting");
  add(idle, "idle", "idle");
  add(stats.max_connections - cells.length, "free", "not open");
  const element = byId("cells");
  cells.forEach(([className, text, line], i) => {
    let cell = element.children[i];
    if (!cell) {
      cell = make("li");
      cell.append(make("b"), make("small"));
      element.append(cell);
    }
    if (cell.className !== className) cell.className = className;
    setText(cell.firstChild, text);
    // Left-to-right marks keep the digits of a line in order where its beginning is cut off.
    setText(cell.lastChild, line ? `\u200e${line}\u200e` : "");
    cell.title = line;
  });
  while (element.children.length > cells.length) element.lastChild.remove();
  const counts = [[inUse, "in use"], [idle, "idle"], [connecting, "connecting"], [resetting, "resetting"], [stats.max_connections, "at most"]];
  const line = byId("counts");
  if (!line.children.length) {
    counts.forEach(() => {
      const item = make("span");
      item.append(make("b"), " ", make("span"));
      line.append(item);
    });
  }
  counts.forEach(([n, word], i) => {
    setText(line.children[i].firstChild, String(n));
    setText(line.children[i].lastChild, word);
  });
  showQueue(stats.waiting, series.request_threads ? series.request_threads.waiting : 0);
  const server = series.server;
  const open = idle + inUse + resetting;
  setText(byId("server"), server
    ? `The server allows ${server.max_connections} connections; ${open} are this pool's, and ${server.others} are others'.`
    : "How many connections the server allows is not known yet.");
}

function showQueue(waiting, forThreads) {
  const marks = byId("queue");
  const shown = Math.min(waiting + forThreads, 60);
  while (marks.children.length < shown) marks.append(make("i"));
  while (marks.children.length > shown) marks.lastChild.remove();
  const threads = forThreads ? `, ${forThreads} for a thread` : "";
  setText(byId("queued"), `${waiting} waiting for a connection${threads}`);
}

const CHARTS = [
  { title: "In use", of: (s) => s.in_use, limit: (s) => s.max, show: (s) => `${s.in_use} of ${s.max}`, unit: count },
  { title: "Waiting", of: (s) => s.waiting, show: (s) => count(s.waiting), unit: count },
  { title: "Requests per second", of: (s) => s.requests_per_s, show: (s) => count(s.requests_per_s), unit: count },
  { title: "Wait p99, p50", of: (s) => s.wait_p99_ms, second: (s) => s.wait_p50_ms, show: (s) => `${time(s.wait_p99_ms)}, ${time(s.wait_p50_ms)}`, unit: time },
  { title: "Use p99, p50", of: (s) => s.use_p99_ms, second: (s) => s.use_p50_ms, show: (s) => `${time(s.use_p99_ms)}, ${time(s.use_p50_ms)}`, unit: time },
  { title: "Errors", of: failures, show: (s) => count(failures(s)), unit: count },
];

function build() {
  for (const chart of CHARTS) {
    const figure = make("figure");
    const caption = make("figcaption");
    chart.value = make("b");
    caption.append(make("span", chart.title), chart.value);
    chart.svg = document.createElementNS(SVG, "svg");
    chart.svg.setAttribute("viewBox", "0 0 300 60");
    chart.svg.setAttribute("preserveAspectRatio", "none");
    chart.svg.setAttribute("role", "img");
    chart.bands = document.createElementNS(SVG, "g");
    chart.svg.append(chart.bands);
    for (const name of ["area", "limit", "line", "second"]) {
      chart[name + "Path"] = document.createElementNS(SVG, "path");
      chart[name + "Path"].setAttribute("class", name);
      chart.svg.append(chart[name + "Path"]);
    }
    const axis = make("div", undefined, "axis");
    chart.most = make("span");
    axis.append(make("span", "5 min ago"), chart.most, make("span", "now"));
    figure.append(caption, chart.svg, axis);
    byId("charts").append(figure);
  }
}

// The bound above `most` whose first digit is 1, 2 or 5.
function bound(most) {
  if (most <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((digit) => digit * power).find((candidate) => candidate >= most);
}

function line(of, x, most) {
  let text = "";
  let isDrawn = false;
  for (const step of steps) {
    const value = of(step);
    const isGap = value === null || value === undefined || step.ms > 5000;
    if (!isGap) text += `${isDrawn ? "L" : "M"}${x(step.at_ms).toFixed(1)} ${(58 - (56 * value) / most).toFixed(1)}`;
    isDrawn = !isGap;
  }
  return text;
}

function showCharts(series) {
  const x = (at) => 300 - (300 * (series.now_ms - at)) / SPAN_MS;
  const step = last();
  const bands = series.outages.filter((outage) => outage.to_ms === null || x(outage.to_ms) > 0);
  for (const chart of CHARTS) {
    const values = steps.flatMap((s) => [chart.of(s), chart.limit ? chart.limit(s) : 0]);
    const most = chart.limit ? Math.max(1, ...values) : bound(Math.max(0, ...values.filter((v) => v !== null)));
    const drawn = line(chart.of, x, most);
    chart.linePath.setAttribute("d", drawn);
    // From the end of each stretch of the line down, and back to below its beginning.
    const areas = drawn.split("M").slice(1).map((stretch) => `M${stretch}V60H${stretch.split(" ")[0]}Z`);
    chart.areaPath.setAttribute("d", areas.join(""));
    chart.limitPath.setAttribute("d", chart.limit ? line(chart.limit, x, most) : "");
    chart.secondPath.setAttribute("d", chart.second ? line(chart.second, x, most) : "");
    setText(chart.value, step ? chart.show(step) : "–");
    setText(chart.most, `top ${chart.unit(most)}`);
    chart.svg.setAttribute("aria-label", `${chart.title}: now ${step ? chart.show(step) : "unknown"}, scale to ${chart.unit(most)}`);
    while (chart.bands.children.length < bands.length) chart.bands.append(document.createElementNS(SVG, "rect"));
    while (chart.bands.children.length > bands.length) chart.bands.lastChild.remove();
    bands.forEach((outage, i) => {
      const from = Math.max(0, x(outage.from_ms));
      const to = outage.to_ms === null ? 300 : x(outage.to_ms);
      const rect = chart.bands.children[i];
      for (const [name, value] of [["x", from], ["y", 0], ["width", Math.max(1, to - from)], ["height", 60]]) rect.setAttribute(name, value);
    });
  }
  const texts = bands.map((outage) => {
    const length = time((outage.to_ms === null ? series.now_ms : outage.to_ms) - outage.from_ms);
    return outage.to_ms === null ? `connecting has failed for ${length}` : `${length}, until ${time(series.now_ms - outage.to_ms)} ago`;
  });
  setText(byId("outages"), texts.length ? `Outages (shaded): ${texts.join("; ")}.` : "No outage.");
}

function rows(body, rows, none) {
  const width = body.parentElement.tHead.rows[0].cells.length;
  const wanted = rows.length ? rows : [[none]];
  while (body.rows.length > wanted.length) body.deleteRow(-1);
  wanted.forEach((texts, i) => {
    let row = body.rows[i];
    if (!row || row.cells.length !== texts.length) {
      if (row) row.remove();
      row = body.insertRow(i);
      texts.forEach((_, column) => {
        const cell = row.insertCell();
        if (column > 0) cell.className = "n";
        else if (texts.length > 1) cell.append(make("code"));
        else {
          cell.colSpan = width;
          cell.className = "quiet";
        }
      });
    }
    texts.forEach((text, column) => setText(row.cells[column].querySelector("code") || row.cells[column], text));
  });
}

function showTables(series) {
  rows(byId("leaks"), series.leaks.map((leak) => [leak.acquired_at, count(leak.connections), time(leak.longest_ms)]), "None: every connection came back within the leak threshold.");
  const kinds = { exhausted: "no connection became free in time", saturated: "the queue was full", down: "the server was down", connect_failures: "a connect failed", broken: "a connection broke" };
  const errors = Object.entries(kinds).map(([kind, text]) => [text, sum((step) => step.errors[kind])]);
  rows(byId("errors"), errors.filter(([, n]) => n > 0).map(([text, n]) => [text, count(n)]), "None.");
  const statement = (s) => [s.text, time(s.mean_ms), time(s.p99_ms), count(s.calls), count(s.failures), count(s.rows)];
  rows(byId("slowest"), series.slowest.map(statement), "None counted yet.");
  rows(byId("frequent"), series.most_frequent.map(statement), "None counted yet.");
}

byId("login").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, byId("token").value.trim());
  byId("token").value = "";
  setText(byId("refused"), "");
  watch();
});
document.addEventListener("visibilitychange", watch);
build();
if (sessionStorage.getItem(KEY)) watch();
else ask(true);
