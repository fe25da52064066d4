// What a reply is doing and how fast, from the chunks as they come. Counts are the server's where it gives them;
// until then a chunk counts as a token, and the final usage sets it right. All times in milliseconds.

const seconds = (ms) => `${(Math.max(ms, 0) / 1000).toFixed(1)} s`;
const rate = (perSecond) => `${perSecond < 1000 ? perSecond.toFixed(1) : Math.round(perSecond)} tok/s`;

/** Phases in order: queued, reading, thinking, answering, done. */
export class Meter {
  phase = "queued";
  prompt = { tokens: null, done: null, cached: 0 };
  tokens = { thinking: 0, answering: 0 };
  timings = null;
  account = null; // what the server says it took, where several samples or a budget were asked for
  finish = null;
  #at = {}; // phase -> when it began

  constructor(now) {
    this.#at.queued = now;
  }

  /** A later phase begins; an earlier or equal one is no news. */
  enter(phase, now) {
    const order = ["queued", "reading", "thinking", "answering", "done"];
    if (order.indexOf(phase) <= order.indexOf(this.phase)) return;
    this.phase = phase;
    this.#at[phase] = now;
  }

  /** Account for one chunk; returns the text it brought, as {reasoning, content}. */
  observe(chunk, now) {
    const choice = chunk.choices?.[0];
    const reasoning = choice?.delta?.reasoning_content ?? choice?.delta?.reasoning ?? "";
    const content = choice?.delta?.content ?? "";
    if (chunk.fathom) this.#progress(chunk.fathom, now);
    else this.enter("reading", now);
    if (reasoning) this.#count("thinking", chunk.fathom, now);
    if (content) this.#count("answering", chunk.fathom, now);
    if (choice?.finish_reason) this.finish = choice.finish_reason;
    this.account = chunk.usage?.think ?? chunk.think ?? this.account;
    if (chunk.usage) this.#settle(chunk.usage);
    if (chunk.timings) this.timings = chunk.timings;
    return { reasoning, content };
  }

  /** How long the thinking took so far, or in all. */
  thoughtMs(now) {
    return "thinking" in this.#at ? (this.#at.answering ?? this.#at.done ?? now) - this.#at.thinking : 0;
  }

  /** What the reply took so far: the server's account, or tokens and seconds as they are known here. */
  spent(now) {
    const tokens = (this.prompt.tokens ?? 0) + this.tokens.thinking + this.tokens.answering;
    return { account: this.account, tokens, seconds: ((this.#at.done ?? now) - this.#at.queued) / 1000 };
  }

  /** The phase line: [{phase, text}], one entry for each phase reached. */
  line(now) {
    const end = this.#at.done ?? now;
    const steps = [];
    const waited = (this.#at.reading ?? this.#at.thinking ?? this.#at.answering ?? end) - this.#at.queued;
    if (this.phase === "queued" || waited >= 100) steps.push({ phase: "queued", text: `queued ${seconds(waited)}` });
    if ("reading" in this.#at) steps.push({ phase: "reading", text: this.#reading(end) });
    if ("thinking" in this.#at) {
      steps.push({ phase: "thinking", text: `thinking ${this.tokens.thinking} tok ${seconds(this.thoughtMs(end))}` });
    }
    if ("answering" in this.#at) {
      const verb = this.phase === "done" ? "answer" : "answering";
      steps.push({ phase: "answering", text: `${verb} ${this.tokens.answering} tok` });
    }
    if (steps.length > 0) steps.at(-1).text = [steps.at(-1).text, ...this.#speed(end)].join(" · ");
    return steps;
  }

  #progress({ phase, queued_s, prompt_tokens, prompt_done, cached_tokens, ...counts }, now) {
    this.prompt.tokens = prompt_tokens ?? this.prompt.tokens;
    this.prompt.done = prompt_done ?? this.prompt.done;
    this.prompt.cached = cached_tokens ?? this.prompt.cached;
    this.tokens.thinking = counts.reasoning_tokens ?? this.tokens.thinking;
    this.tokens.answering = counts.answer_tokens ?? this.tokens.answering;
    if (phase === undefined || phase === "queued") return;
    this.enter("reading", queued_s === undefined ? now : this.#at.queued + queued_s * 1000);
    this.enter(phase, now);
  }

  #count(phase, progress, now) {
    this.enter(phase, now);
    if (progress?.reasoning_tokens === undefined) this.tokens[phase] += 1;
  }

  #settle(usage) {
    const thinking = usage.completion_tokens_details?.reasoning_tokens ?? this.tokens.thinking;
    this.tokens = { thinking, answering: usage.completion_tokens - thinking };
    this.prompt.tokens = this.prompt.done = usage.prompt_tokens;
    this.prompt.cached = usage.prompt_tokens_details?.cached_tokens ?? this.prompt.cached;
  }

  #reading(end) {
    const { tokens, done, cached } = this.prompt;
    if (tokens === null) return `reading prompt ${seconds((this.#firstToken() ?? end) - this.#at.reading)}`;
    const read = this.#firstToken() === undefined ? (done ?? 0) : tokens;
    const count = this.phase === "done" ? `prompt ${tokens} tokens` : `reading prompt ${read}/${tokens} tokens`;
    return count + (cached > 0 ? ` (${cached} from cache)` : "");
  }

  #firstToken() {
    return this.#at.thinking ?? this.#at.answering;
  }

  #speed(end) {
    const first = this.#firstToken();
    if (first === undefined) return [];
    const elapsed = (end - first) / 1000;
    const measured = elapsed > 0.2 ? (this.tokens.thinking + this.tokens.answering) / elapsed : null;
    const perSecond = this.timings?.predicted_per_second ?? measured;
    const wait = Math.round(this.timings?.time_to_first_token_ms ?? first - this.#at.queued);
    return [...(perSecond ? [rate(perSecond)] : []), `TTFT ${wait} ms`];
  }
}
