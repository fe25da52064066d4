// One question and its reply: what is known of it, and how it looks while it grows.

import { complete } from "./api.js";
import { rendered } from "./markdown.js";
import { Meter } from "./meter.js";
import { costLine } from "./think.js";

const TICK_MS = 100; // the phase line moves at least this often, whatever the server does
const ENDINGS = { length: "cut off at the token limit", abort: "ended by the server" };

const template = document.getElementById("turn-template");

export class Turn {
  state = "running"; // then done, stopped or failed
  reasoning = "";
  content = "";
  #parts = {};
  #meter = null;
  #frame = 0;
  #shown = { content: null, reasoning: null };
  #painted;
  #pricePerHour;
  #chosen = false; // the reader has opened or closed the thinking: it stays as they left it

  /**
   * `body`: the request, whose last message is the question. `painted`: called after each change of the view.
   * `pricePerHour`: of the machine; null if nobody said.
   */
  constructor(body, painted, pricePerHour = null) {
    this.body = body;
    this.#painted = painted;
    this.#pricePerHour = pricePerHour;
    this.element = template.content.firstElementChild.cloneNode(true);
    for (const name of ["asked", "thinking", "thought", "steps", "answer", "error", "retry", "phases", "cost"]) {
      this.#parts[name] = this.element.querySelector(`.${name}`);
    }
    this.#parts.asked.textContent = this.question;
    this.#parts.thinking.querySelector("summary").addEventListener("click", () => (this.#chosen = true));
  }

  get question() {
    return this.body.messages.at(-1).content;
  }

  /** What later requests are told of this turn: the answer, never the thinking; nothing if there is no answer. */
  messages() {
    if (this.state === "failed" || this.content === "") return [];
    return [this.body.messages.at(-1), { role: "assistant", content: this.content }];
  }

  /** Ask, and follow the reply to its end. Never throws: how it ended is in `state`, and said on the page. */
  async run(signal, announce) {
    this.#meter = new Meter(performance.now());
    const tick = setInterval(() => this.#paintSoon(), TICK_MS);
    this.element.classList.add("running");
    this.#paint();
    try {
      for await (const chunk of complete(this.body, signal)) {
        this.#take(chunk, announce);
      }
      this.#end("done", ENDINGS[this.#meter.finish]);
      announce(`Answer: ${this.#parts.answer.textContent.trim()}`);
    } catch (error) {
      if (error.name === "AbortError") {
        this.#end("stopped", this.content ? "stopped" : "stopped before an answer");
        announce("Stopped.");
      } else {
        this.#fail(error);
        announce(error.message);
      }
    } finally {
      clearInterval(tick);
    }
  }

  #take(chunk, announce) {
    const before = this.#meter.phase;
    const { reasoning, content } = this.#meter.observe(chunk, performance.now());
    this.reasoning += reasoning;
    this.content += content;
    if (this.#meter.phase !== before) {
      announce({ thinking: "Thinking.", answering: "Answering." }[this.#meter.phase] ?? "");
      if (!this.#chosen) this.#parts.thinking.open = this.#meter.phase === "thinking";
    }
    this.#paintSoon();
  }

  #end(state, note) {
    cancelAnimationFrame(this.#frame);
    this.state = state;
    this.#meter.enter("done", performance.now());
    if (!this.#chosen && this.content) this.#parts.thinking.open = false;
    this.element.classList.remove("running");
    this.element.classList.add(state);
    this.element.querySelector("[data-copy=answer]").hidden = this.content === "";
    this.#paint();
    if (note) {
      const mark = document.createElement("span");
      mark.className = "note";
      mark.textContent = note;
      this.#parts.phases.prepend(mark);
    }
    this.#painted();
  }

  #fail(error) {
    const again = error.retryS ? ` Try again in ${Math.ceil(error.retryS)} s.` : "";
    this.#parts.error.querySelector("p").textContent = error.message + again;
    this.#parts.error.hidden = false;
    this.#end("failed");
  }

  #paintSoon() {
    cancelAnimationFrame(this.#frame);
    this.#frame = requestAnimationFrame(() => this.#paint());
  }

  #paint() {
    const now = performance.now();
    this.#paintThinking(now);
    if (this.#shown.content !== this.content) {
      this.#parts.answer.replaceChildren(rendered(this.content));
      this.#shown.content = this.content;
    }
    this.#paintPhases(now);
    this.#painted();
  }

  #paintThinking(now) {
    const { thinking, thought, steps } = this.#parts;
    const over = this.#meter.phase !== "thinking";
    const label = over ? "Thought for" : "Thinking";
    const seconds = (this.#meter.thoughtMs(now) / 1000).toFixed(1);
    const text = `${label} ${seconds} s · ${this.#meter.tokens.thinking} tokens`;
    if (thought.textContent !== text) thought.textContent = text;
    thinking.hidden = this.reasoning === "";
    thinking.classList.toggle("live", !over);
    if (this.#shown.reasoning === this.reasoning) return;
    const atEnd = steps.scrollHeight - steps.scrollTop - steps.clientHeight < 24;
    steps.textContent = this.reasoning.trim();
    if (atEnd) steps.scrollTop = steps.scrollHeight;
    this.#shown.reasoning = this.reasoning;
  }

  #paintPhases(now) {
    const line = this.#meter.line(now);
    const spans = this.#parts.phases.querySelectorAll(".phase");
    line.forEach(({ phase, text }, index) => {
      const span = spans[index] ?? this.#parts.phases.appendChild(document.createElement("span"));
      span.className = "phase";
      span.dataset.phase = phase;
      span.classList.toggle("now", index === line.length - 1);
      if (span.textContent !== text) span.textContent = text;
    });
    for (const span of [...spans].slice(line.length)) span.remove();
    const cost = costLine({ ...this.#meter.spent(now), pricePerHour: this.#pricePerHour });
    if (this.#parts.cost.textContent !== cost) this.#parts.cost.textContent = cost;
  }
}
