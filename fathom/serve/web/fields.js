// The inputs: made from what the server says can be asked, read from and written to the address.

const made = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children);
  return element;
};

export class Fields {
  /** `groups`: [{title, fields}] as /v1/plan/inputs has them. `changed` is called when a value was. */
  constructor(form, groups, changed) {
    this.all = groups.flatMap(({ fields }) => fields);
    this.parts = new Map();
    form.replaceChildren(...groups.map((group) => this.#group(group)));
    form.addEventListener("submit", (event) => event.preventDefault());
    for (const kind of ["input", "change"]) form.addEventListener(kind, () => changed());
  }

  #group({ title, fields }) {
    return made("fieldset", {}, made("legend", { textContent: title }), ...fields.map((field) => this.#field(field)));
  }

  #field(field) {
    const id = `in-${field.name}`;
    const wrong = made("p", { className: "wrong", id: `${id}-wrong` });
    const inputs = field.kind === "choice" ? [this.#select(field, id)] : this.#boxes(field, id);
    for (const input of inputs) input.setAttribute("aria-describedby", wrong.id);
    this.parts.set(field.name, { inputs, wrong });
    this.#put(field, field.default);
    const words = [field.unit && `[${field.unit}]`, field.hint].filter(Boolean).join(" ");
    const name = inputs.length === 1 ? made("label", { htmlFor: id, textContent: field.label }) : made("span", { className: "name", textContent: field.label });
    if (words) name.append(made("small", { textContent: words }));
    const place = inputs.length === 1 ? inputs[0] : made("span", { className: "three" }, ...inputs);
    if (inputs.length > 1) {
      place.setAttribute("role", "group");
      place.setAttribute("aria-label", field.label);
    }
    return made("div", { className: "field" }, name, place, wrong);
  }

  #select(field, id) {
    return made("select", { id, name: field.name }, ...field.choices.map(([value, words]) => new Option(words, value)));
  }

  #boxes(field, id) {
    const box = (suffix, words) => {
      const input = made("input", { id: id + suffix, type: "text", inputMode: "decimal", spellcheck: false, placeholder: field.empty ?? "" });
      if (words) input.setAttribute("aria-label", `${field.label}, ${words}`);
      return input;
    };
    if (field.kind !== "sure") return [box("", "")];
    return [box("-low", "P10"), box("", "value"), box("-high", "P90")];
  }

  #put(field, text) {
    const { inputs } = this.parts.get(field.name);
    const parts = text.split("..");
    if (inputs.length === 1) inputs[0].value = text;
    else inputs.forEach((input, i) => (input.value = parts.length === 3 ? parts[i] : i === 1 ? text : ""));
  }

  /** The text of an input, as the server reads it. */
  text(name) {
    const { inputs } = this.parts.get(name);
    if (inputs.length === 1) return inputs[0].value.trim();
    const [low, value, high] = inputs.map((input) => input.value.trim());
    return low || high ? `${low || value}..${value}..${high || value}` : value;
  }

  /** Those of `names` (or all) that are not as they were, as a query string. */
  query(names = this.all.map(({ name }) => name)) {
    const changed = this.all.filter(({ name }) => names.includes(name)).map((field) => [field, this.text(field.name)]);
    return new URLSearchParams(changed.filter(([field, text]) => text !== field.default).map(([field, text]) => [field.name, text])).toString();
  }

  /** Take the values of an address; what it does not name is as it was. */
  take(search) {
    const given = new URLSearchParams(search);
    for (const field of this.all) this.#put(field, given.get(field.name) ?? field.default);
  }

  /** Say at an input what is wrong with it; without a name, that nothing is. */
  blame(name = "", message = "") {
    for (const [each, { inputs, wrong }] of this.parts) {
      wrong.textContent = each === name ? message : "";
      for (const input of inputs) input.setAttribute("aria-invalid", String(each === name));
    }
  }
}
