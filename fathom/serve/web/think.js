// How much a reply may think: the controls under the question, as fields of a request; and what a reply cost.

const MOST_SAMPLES = 16;

/** The controls: a switch, an effort, a number of samples with what is made of them. `form`: where they are. */
export class Controls {
  #thinking;
  #effort;
  #samples;
  #strategy;

  constructor(form) {
    this.#thinking = form.querySelector("#thinking");
    this.#effort = form.querySelector("#effort");
    this.#samples = form.querySelector("#samples");
    this.#strategy = form.querySelector("#strategy");
    // The switch and the effort "none" say the same: each follows the other.
    this.#thinking.addEventListener("click", () => {
      const on = this.#thinking.ariaChecked !== "true";
      this.#thinking.ariaChecked = on;
      this.#effort.value = on ? "" : "none";
    });
    this.#effort.addEventListener("change", () => (this.#thinking.ariaChecked = this.#effort.value !== "none"));
    this.#samples.addEventListener("input", () => (this.#strategy.hidden = this.#count() < 2));
    this.#samples.addEventListener("change", () => (this.#samples.value = this.#count()));
  }

  #count() {
    return Math.min(MOST_SAMPLES, Math.max(1, Math.round(Number(this.#samples.value)) || 1));
  }

  /** What a request says of it; nothing where the model shall do as it is used to. */
  fields() {
    const effort = this.#effort.value;
    const n = this.#count();
    return {
      thinking: { type: this.#thinking.ariaChecked === "true" ? "enabled" : "disabled" },
      ...(effort === "" ? {} : { reasoning_effort: effort }),
      ...(n > 1 ? { think: { strategy: this.#strategy.value, n } } : {}),
    };
  }
}

const money = (amount) => amount.toLocaleString("en", { maximumSignificantDigits: 2, useGrouping: false });

/** The cost of a reply so far as one line. `account`: the server's, if it gave one; `pricePerHour`: null if unknown. */
export function costLine({ account, tokens, seconds, pricePerHour }) {
  const took = account?.seconds ?? seconds;
  const spent = account?.cost ?? (pricePerHour === null ? null : (took * pricePerHour) / 3600);
  const parts = [`${account ? account.prompt_tokens + account.completion_tokens : tokens} tokens`];
  parts.push(`${Math.max(took, 0).toFixed(1)} s`);
  if (spent !== null) parts.push(`costs ${money(spent)}`);
  if (account?.n > 1) parts.push(samples(account));
  return parts.join(" · ");
}

function samples({ n, finished, aborted, votes, strategy }) {
  const most = Math.max(0, ...Object.values(votes ?? {}));
  const said = strategy === "vote" && most > 0 ? `${most} of ${finished} agree` : `${finished} of ${n} samples`;
  return aborted > 0 ? `${said}, ${aborted} not needed` : said;
}
