// The page: a conversation in memory, one reply at a time, and a header that knows where the server stands.

import { curl, models, readiness, suggestions } from "./api.js";
import { Controls } from "./think.js";
import { Turn } from "./turn.js";

const POLL_MS = { ready: 10_000, loading: 1_000, lost: 2_000 };
const NEAR_END_PX = 80;

const $ = (id) => document.getElementById(id);
const question = $("question");
const send = $("send");
const controls = new Controls($("composer"));

let turns = [];
let running = null; // the AbortController of the reply in progress
let model = null;
let pricePerHour = null; // of the machine, if the server was told
let following = true; // the reader is at the end of the page, so the page keeps them there

// --- the conversation ------------------------------------------------------------------------------------------------

function request(text) {
  return {
    model: model?.id,
    messages: [...turns.flatMap((turn) => turn.messages()), { role: "user", content: text }],
    ...controls.fields(),
  };
}

async function ask(text) {
  if (running !== null || text.trim() === "") return;
  const turn = new Turn(request(text.trim()), follow, pricePerHour);
  turn.element.querySelector(".retry").addEventListener("click", () => retry(turn));
  turn.element.addEventListener("click", (event) => copy(event, turn));
  turns.push(turn);
  $("conversation").append(turn.element);
  following = true;
  const control = (running = new AbortController());
  show();
  await turn.run(control.signal, announce);
  if (running !== control) return; // a new chat has begun meanwhile
  running = null;
  show();
  if (turn.state === "failed") poll();
}

function retry(turn) {
  if (running !== null) return;
  turns = turns.filter((other) => other !== turn);
  turn.element.remove();
  ask(turn.question);
  focus();
}

const stop = () => running?.abort();

function newChat() {
  stop();
  running = null;
  turns = [];
  $("conversation").replaceChildren();
  announce("New chat.");
  show();
  focus();
}

/** Back to writing; not where that would bring up a keyboard on the screen. */
function focus() {
  if (matchMedia("(pointer: fine)").matches) question.focus();
}

/** Bring the controls in line with the state. */
function show() {
  const busy = running !== null;
  $("welcome").hidden = turns.length > 0;
  send.disabled = !busy && question.value.trim() === "";
  send.ariaLabel = busy ? "Stop" : "Send";
  send.classList.toggle("stop", busy);
  send.querySelector("use").setAttribute("href", busy ? "#icon-stop" : "#icon-send");
  document.title = turns.length > 0 ? `${turns[0].question.slice(0, 40)} · fathom` : "fathom";
}

function announce(text) {
  if (text) $("status").textContent = text;
}

// --- writing ---------------------------------------------------------------------------------------------------------

function submit() {
  if (running !== null) return;
  const text = question.value;
  question.value = "";
  fit();
  ask(text);
}

/** Let the box grow with what is written in it. */
function fit() {
  question.style.height = "auto";
  question.style.height = `${question.scrollHeight}px`;
  show();
}

question.addEventListener("input", fit);
question.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  submit();
});
$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (running === null) submit();
  else stop();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") stop();
});
$("new-chat").addEventListener("click", newChat);

// --- copying ---------------------------------------------------------------------------------------------------------

async function copy(event, turn) {
  const button = event.target.closest("[data-copy]");
  if (button === null) return;
  const text = { question: turn.question, answer: turn.content, curl: curl(turn.body) }[button.dataset.copy];
  const done = await written(text);
  announce(done ? "Copied." : "The browser did not allow copying.");
  if (!done) return;
  const icon = button.querySelector("use");
  const before = `#icon-${button.dataset.copy === "curl" ? "shell" : "copy"}`;
  icon.setAttribute("href", "#icon-done");
  setTimeout(() => icon.setAttribute("href", before), 1500);
}

/** Put text on the clipboard; the old way where the page is not a secure context (plain http on a network). */
async function written(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text).then(() => true, () => false);
  const area = document.createElement("textarea");
  area.className = "unseen";
  area.value = text;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  return done;
}

// --- scrolling -------------------------------------------------------------------------------------------------------

const page = document.documentElement;
const toEnd = () => page.scrollHeight - page.clientHeight - page.scrollTop;
let lastTop = 0;

function follow() {
  if (following) page.scrollTop = page.scrollHeight;
  $("latest").hidden = following || toEnd() < NEAR_END_PX;
}

document.addEventListener("scroll", () => {
  if (toEnd() < NEAR_END_PX) following = true;
  else if (page.scrollTop < lastTop) following = false;
  lastTop = page.scrollTop;
  $("latest").hidden = following;
}, { passive: true });
$("latest").addEventListener("click", () => {
  following = true;
  follow();
});

// --- the server ------------------------------------------------------------------------------------------------------

let timer = 0;

async function poll() {
  clearTimeout(timer);
  const { state, detail, facts } = await readiness();
  if (state === "ready") pricePerHour = facts.price_per_hour ?? null;
  if (state === "ready" && (model === null || model.id !== (facts.model ?? model.id))) await introduce(facts);
  $("connection").dataset.state = state;
  $("connection").title = detail ?? "";
  const text = { ready: "ready", loading: "loading the model", lost: "no connection" }[state];
  if ($("connection-text").textContent !== text) $("connection-text").textContent = text;
  clearTimeout(timer);
  timer = setTimeout(poll, document.hidden ? POLL_MS.ready : POLL_MS[state]);
}

/** Say which model answers, and offer questions it is good at. */
async function introduce(ready) {
  const [list, questions] = await Promise.all([models().catch(() => []), suggestions()]);
  model = list[0] ?? null;
  $("model").textContent = model?.id ?? "";
  $("facts").textContent = facts({ ...ready, ...model }).join(" · ");
  const template = document.createElement("template");
  for (const { prompt, family } of questions) {
    const item = template.content.appendChild(document.createElement("li"));
    const chip = item.appendChild(document.createElement("button"));
    chip.type = "button";
    chip.append(Object.assign(document.createElement("small"), { textContent: family ?? "" }), prompt);
    chip.addEventListener("click", () => {
      ask(prompt);
      focus();
    });
  }
  $("suggestions").replaceChildren(template.content);
}

/** The few facts about a model that fit in the header; the server gives what it knows. */
function facts({ parameters, parameters_activated, context, context_length }) {
  const length = context ?? context_length;
  const short = (count) => (count >= 1e9 ? `${(count / 1e9).toFixed(1)} B` : `${(count / 1e6).toFixed(1)} M`);
  return [
    parameters ? `${short(parameters)} parameters` : null,
    parameters_activated ? `${short(parameters_activated)} active` : null,
    length ? `context ${length.toLocaleString("en")}` : null,
  ].filter((fact) => fact !== null);
}

document.addEventListener("visibilitychange", () => document.hidden || poll());
poll();
fit();
