// Draws /openapi.json: every operation with its parameters, an example body and a form to call it. Loads nothing else.
"use strict";

const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children.filter((child) => child !== null));
  return element;
};

const resolve = (document_, schema) =>
  schema && schema.$ref ? schema.$ref.slice(2).split("/").reduce((node, key) => node[key], document_) : schema || {};

// An example value of a schema; depth bounds recursive ones.
const example = (document_, given, depth = 0) => {
  const schema = resolve(document_, given);
  if (depth > 6) return null;
  if (schema.examples) return schema.examples[0];
  if ("default" in schema) return schema.default;
  if ("const" in schema) return schema.const;
  if (schema.enum) return schema.enum[0];
  const choices = schema.anyOf || schema.oneOf || schema.allOf;
  if (choices && choices.some((choice) => choice.type === "null")) return null; // may be left out
  if (choices) return example(document_, choices[0], depth + 1);
  if (schema.type === "array") return [example(document_, schema.items, depth + 1)];
  if (schema.type === "object" || schema.properties) {
    const entries = Object.entries(schema.properties || {});
    return Object.fromEntries(entries.map(([name, inner]) => [name, example(document_, inner, depth + 1)]));
  }
  return { string: "", integer: 0, number: 0, boolean: false }[schema.type] ?? null;
};

const key = () => document.getElementById("key").value.trim();

const send = async (method, path, inputs, body, output) => {
  const query = new URLSearchParams();
  const headers = key() ? { authorization: `Bearer ${key()}` } : {};
  for (const { place, name, field } of inputs) {
    if (place === "path") path = path.replace(`{${name}}`, encodeURIComponent(field.value));
    else if (field.value !== "" && place === "query") query.append(name, field.value);
    else if (field.value !== "" && place === "header") headers[name] = field.value;
  }
  if (body) headers["content-type"] = "application/json";
  output.hidden = false;
  output.textContent = "…";
  try {
    const response = await fetch(path + (query.size ? `?${query}` : ""), { method, headers, body: body && body.value });
    const text = (await response.text()).slice(0, 100000);
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown as it came */ }
    output.textContent = `${response.status} ${response.statusText}\n\n${shown}`;
  } catch (error) {
    output.textContent = `No answer: ${error.message}`;
  }
};

const form = (document_, method, path, operation) => {
  const inputs = (operation.parameters || []).map((given) => {
    const parameter = resolve(document_, given);
    const field = make("input", { name: parameter.name, placeholder: parameter.description || "" });
    return { place: parameter.in, name: parameter.name, required: parameter.required, field };
  });
  const media = operation.requestBody && operation.requestBody.content["application/json"];
  const body = media ? make("textarea", { spellcheck: false }) : null;
  if (body) body.value = JSON.stringify(example(document_, media.schema), null, 2);
  const output = make("pre", { hidden: true });
  const rows = inputs.map(({ place, name, required, field }) =>
    make("label", {}, `${name} (${place}${required ? ", required" : ""})`, field));
  const call = make("form", {}, ...rows, body && make("label", {}, "body", body), make("button", { type: "submit" }, "Send"));
  call.addEventListener("submit", (event) => {
    event.preventDefault();
    send(method.toUpperCase(), path, inputs, body, output);
  });
  return make("div", { className: "body" }, make("p", {}, operation.description || ""), call, output);
};

const draw = (document_) => {
  const groups = new Map();
  for (const [path, operations] of Object.entries(document_.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const tag = (operation.tags || ["service"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      const head = make("summary", {}, make("span", { className: `method ${method}` }, method.toUpperCase()),
        make("code", {}, path), make("span", {}, operation.summary || ""));
      groups.get(tag).push(make("details", {}, head, form(document_, method, path, operation)));
    }
  }
  const main = document.querySelector("main");
  main.replaceChildren();
  for (const [tag, items] of groups) main.append(make("h2", {}, tag), ...items);
};

const field = document.getElementById("key");
field.value = sessionStorage.getItem("lcl-key") || "";
field.addEventListener("change", () => sessionStorage.setItem("lcl-key", key()));
fetch("/openapi.json")
  .then((response) => response.json())
  .then(draw)
  .catch((error) => { document.querySelector("main").textContent = `The description could not be loaded: ${error.message}`; });
