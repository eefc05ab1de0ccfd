// Draws /openapi.json: every call with its parameters, fields and responses, a form to try it, and the same call for
// curl, Python and JavaScript. Loads nothing else.
"use strict";

const MAX_DEPTH = 5; // of objects in objects, which may contain themselves
const SHOWN_CHARACTERS = 100000; // of a response

const make = (tag, attributes = {}, ...children) => {
  const element = Object.assign(document.createElement(tag), attributes);
  element.append(...children.filter((child) => child !== null));
  return element;
};

// A text whose `code` and ``code`` is set as such.
const prose = (tag, text, attributes = {}) => {
  const pieces = (text || "").split(/`{1,2}([^`]+)`{1,2}/);
  return make(tag, attributes, ...pieces.map((piece, place) => (place % 2 ? make("code", {}, piece) : piece)));
};

const resolve = (api, schema) =>
  schema && schema.$ref ? schema.$ref.slice(2).split("/").reduce((node, key) => node[key], api) : schema || {};

const choicesOf = (schema) => schema.anyOf || schema.oneOf || schema.allOf || null;

// An example value of a schema; depth bounds recursive ones.
const example = (api, given, depth = 0) => {
  const schema = resolve(api, given);
  if (depth > MAX_DEPTH) return null;
  if (schema.examples) return schema.examples[0];
  if ("default" in schema) return schema.default;
  if ("const" in schema) return schema.const;
  if (schema.enum) return schema.enum[0];
  const choices = choicesOf(schema);
  if (choices) return example(api, choices[0], depth + 1);
  if (schema.type === "array") return [example(api, schema.items, depth + 1)];
  if (schema.type === "object" || schema.properties) {
    const entries = Object.entries(schema.properties || {});
    return Object.fromEntries(entries.map(([name, inner]) => [name, example(api, inner, depth + 1)]));
  }
  return { string: "", integer: 0, number: 0, boolean: false }[schema.type] ?? null;
};

const bounds = (schema) => {
  const low = schema.minimum ?? (schema.exclusiveMinimum === undefined ? null : `above ${schema.exclusiveMinimum}`);
  const high = schema.maximum ?? (schema.exclusiveMaximum === undefined ? null : `below ${schema.exclusiveMaximum}`);
  if (low === null && high === null) return "";
  return ` (${[low === null ? "" : `from ${low}`, high === null ? "" : `to ${high}`].filter(Boolean).join(" ")})`
    .replace("from above", "above").replace("to below", "below");
};

const typeName = (api, given, depth = 0) => {
  const schema = resolve(api, given);
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  const choices = choicesOf(schema);
  if (choices) return [...new Set(choices.map((choice) => typeName(api, choice, depth + 1)))].join(" or ");
  if (schema.type === "array") return depth > MAX_DEPTH ? "list" : `list of ${typeName(api, schema.items, depth + 1)}`;
  const names = { string: "text", integer: "whole number", number: "number", boolean: "true or false", null: "null" };
  return (names[schema.type] || (schema.type === "object" || schema.properties ? "object" : "anything")) + bounds(schema);
};

// The objects inside a value, such as those of a list: [how the path goes on, schema].
const objectsIn = (api, given, path = "") => {
  const schema = resolve(api, given);
  if (schema.properties) return [[path, schema]];
  if (schema.type === "array") return objectsIn(api, schema.items, `${path}[]`);
  return (choicesOf(schema) || []).flatMap((choice) => objectsIn(api, choice, path));
};

// [path, type, required, default, description] of every field, those of inner objects after their own.
const fieldRows = (api, given, prefix = "", depth = 0) =>
  objectsIn(api, given).flatMap(([list, schema]) =>
    Object.entries(schema.properties).flatMap(([name, field]) => {
      const path = `${prefix}${list}${prefix || list ? "." : ""}${name}`;
      const words = field.description || resolve(api, field).description || "";
      const row = [path, typeName(api, field), (schema.required || []).includes(name), field.default, words];
      return [row, ...(depth < MAX_DEPTH ? fieldRows(api, field, path, depth + 1) : [])];
    }));

const fieldTable = (api, schema, { requests }) => {
  const rows = fieldRows(api, schema).map(([path, type, required, standard, words]) => {
    const note = !requests ? "" : required ? "required" : standard === undefined ? "" : `default ${JSON.stringify(standard)}`;
    return make("tr", {}, make("td", {}, make("code", {}, path)),
      make("td", {}, type, make("small", {}, note)), prose("td", words));
  });
  if (!rows.length) return null;
  const head = make("tr", {}, ...["field", "type", "meaning"].map((title) => make("th", { scope: "col" }, title)));
  return make("div", { className: "scroll" }, make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
};

const key = () => document.getElementById("key").value.trim();

// The call that the form describes: address, headers and body.
const request = (method, path, inputs, body) => {
  const query = new URLSearchParams();
  const headers = {};
  for (const { place, name, field } of inputs) {
    if (place === "path") path = path.replace(`{${name}}`, field.value ? encodeURIComponent(field.value) : `{${name}}`);
    else if (field.value !== "" && place === "query") query.append(name, field.value);
    else if (field.value !== "" && place === "header") headers[name] = field.value;
  }
  if (body) headers["content-type"] = "application/json";
  return { method, path: path + (query.size ? `?${query}` : ""), headers, body: body ? body.value : null };
};

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`; // for a shell

const python = (value, indent = "") => {
  const inner = `${indent}    `;
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const [open, close] = Array.isArray(value) ? "[]" : "{}";
  const items = Array.isArray(value)
    ? value.map((item) => python(item, inner))
    : Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${python(item, inner)}`);
  const line = `${open}${items.join(", ")}${close}`;
  return line.length < 70 && !line.includes("\n") ? line : `${open}\n${items.map((item) => `${inner}${item},\n`).join("")}${indent}${close}`;
};

const curlSnippet = ({ method, path, headers, body }, secured, media) => {
  const lines = [`curl ${media === "event-stream" ? "--no-buffer " : ""}--request ${method} ${quoted(location.origin + path)}`];
  if (secured) lines.push('--header "Authorization: Bearer $LCL_API_KEY"');
  for (const [name, value] of Object.entries(headers)) lines.push(`--header ${quoted(`${name}: ${value}`)}`);
  if (body !== null) lines.push(`--data ${quoted(body)}`);
  if (media === "file") lines.push("--output answer");
  return lines.join(" \\\n  ");
};

const pythonSnippet = ({ method, path, headers, body }, secured, media) => {
  const own = Object.entries(headers).filter(([name]) => name !== "content-type");
  const sent = [secured ? '"Authorization": f"Bearer {os.environ[\'LCL_API_KEY\']}"' : null,
    ...own.map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`)].filter(Boolean);
  const options = [`    "${method}",`, `    ${JSON.stringify(location.origin + path)},`];
  if (sent.length) options.push(`    headers={${sent.join(", ")}},`);
  if (body !== null) options.push(`    json=${python(JSON.parse(body), "    ")},`);
  options.push("    timeout=120,");
  const start = `${secured ? "import os\n\n" : ""}import httpx\n\n`;
  if (media === "event-stream") {
    return `${start}with httpx.stream(\n${options.join("\n")}\n) as answer:\n    for line in answer.iter_lines():\n        print(line)`;
  }
  const use = { json: "print(answer.json())", text: "print(answer.text)", none: "print(answer.status_code)",
    file: 'with open("answer", "wb") as file:\n    file.write(answer.content)' }[media];
  return `${start}answer = httpx.request(\n${options.join("\n")}\n)\nanswer.raise_for_status()\n${use}`;
};

// A module for Node 18 and newer, Deno or Bun; without the key from the environment also for a browser.
const javascriptSnippet = ({ method, path, headers, body }, secured, media) => {
  const sent = [secured ? "Authorization: `Bearer ${process.env.LCL_API_KEY}`" : null,
    ...Object.entries(headers).map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`)].filter(Boolean);
  const options = [`  method: "${method}",`];
  if (sent.length) options.push(`  headers: { ${sent.join(", ")} },`);
  if (body !== null) {
    const value = JSON.stringify(JSON.parse(body), null, 2).replaceAll("\n", "\n  ");
    options.push(`  body: JSON.stringify(${value}),`);
  }
  const use = { json: "console.log(await answer.json());", text: "console.log(await answer.text());",
    none: "console.log(answer.status);",
    "event-stream": "for await (const part of answer.body) process.stdout.write(part);",
    file: 'await writeFile("answer", Buffer.from(await answer.arrayBuffer()));' }[media];
  const start = media === "file" ? 'import { writeFile } from "node:fs/promises";\n\n' : "";
  return `${start}const answer = await fetch(${JSON.stringify(location.origin + path)}, {\n${options.join("\n")}\n});\n`
    + `if (!answer.ok) throw new Error(await answer.text());\n${use}`;
};

// What a successful response contains: json, text, event-stream, file or none.
const mediaOf = (responses) => {
  const types = responses.flatMap(([, response]) => Object.keys(response.content || {}));
  if (!types.length) return "none";
  if (types.includes("application/json")) return "json";
  if (types.includes("text/event-stream")) return "event-stream";
  return types.every((type) => type.startsWith("text/")) ? "text" : "file";
};

const send = async (call, output) => {
  const headers = key() ? { ...call.headers, authorization: `Bearer ${key()}` } : call.headers;
  output.hidden = false;
  output.textContent = "…";
  try {
    const response = await fetch(call.path, { method: call.method, headers, body: call.body ?? undefined });
    const text = (await response.text()).slice(0, SHOWN_CHARACTERS);
    let shown = text;
    try { shown = JSON.stringify(JSON.parse(text), null, 2); } catch { /* not JSON: shown as it came */ }
    output.textContent = `${response.status} ${response.statusText}\n\n${shown}`;
  } catch (error) {
    output.textContent = `No answer: ${error.message}`;
  }
};

const snippet = (title, className) => {
  const code = make("pre", { className, tabIndex: 0 });
  const copy = make("button", { type: "button", className: "copy", hidden: !navigator.clipboard }, "Copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent);
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });
  return { code, block: make("section", {}, make("h4", {}, title, copy), code) };
};

const inputOf = (api, given) => {
  const parameter = resolve(api, given);
  const field = make("input", { name: parameter.name, autocomplete: "off" });
  const value = parameter.example ?? (parameter.examples ? Object.values(parameter.examples)[0] : undefined) ?? resolve(api, parameter.schema).examples?.[0];
  if (parameter.in === "path" && value !== undefined) field.value = value?.value ?? value;
  const standard = parameter.schema?.default;
  if (standard !== undefined && standard !== null) field.placeholder = `default ${standard}`;
  const title = make("span", {}, make("code", {}, parameter.name), ` ${typeName(api, parameter.schema)}`,
    make("small", {}, ` ${parameter.in}${parameter.required ? ", required" : ""}`));
  const row = make("label", {}, title, prose("small", parameter.description, { className: "meaning" }), field);
  return { place: parameter.in, name: parameter.name, field, row };
};

const responseSections = (api, responses) => responses.map(([status, response]) => {
  const [[type, content] = ["", {}]] = Object.entries(response.content || {});
  const types = Object.keys(response.content || {}).join(", ");
  const table = type === "application/json" && content.schema ? fieldTable(api, content.schema, { requests: false }) : null;
  const head = make("p", {}, make("strong", {}, status), ` ${types}`);
  return make("div", {}, head, prose("p", response.description === "Successful Response" ? "" : response.description), table);
});

const details = (api, method, path, operation) => {
  const inputs = (operation.parameters || []).map((given) => inputOf(api, given));
  const media = operation.requestBody?.content["application/json"];
  const body = media ? make("textarea", { name: "body", spellcheck: false }) : null;
  if (body) {
    body.value = JSON.stringify(example(api, media.schema), null, 2);
    body.rows = Math.min(24, body.value.split("\n").length + 1);
  }
  const output = make("pre", { hidden: true, className: "answer" });
  const responses = Object.entries(operation.responses).filter(([status]) => status.startsWith("2"));
  const kind = mediaOf(responses);
  const writers = [["curl", curlSnippet], ["Python", pythonSnippet], ["JavaScript", javascriptSnippet]];
  const snippets = writers.map(([title, write]) => ({ ...snippet(title, title.toLowerCase()), write }));
  const call = () => request(method.toUpperCase(), path, inputs, body);
  const refresh = () => {
    for (const { code, write } of snippets) {
      try { code.textContent = write(call(), Boolean(operation.security), kind); } catch { /* not JSON yet */ }
    }
  };
  const form = make("form", {}, ...inputs.map((input) => input.row),
    body && make("label", {}, make("span", {}, "body"), body), make("button", { type: "submit" }, "Send"));
  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => { event.preventDefault(); send(call(), output); });
  refresh();
  return make("div", { className: "body" }, ...(operation.description || "").split("\n\n").map((part) => prose("p", part)),
    form, output, body && make("h4", {}, "Fields of the body"), body && fieldTable(api, media.schema, { requests: true }),
    make("h4", {}, "Response"), ...responseSections(api, responses), ...snippets.map(({ block }) => block));
};

const entry = (api, method, path, operation) => {
  const head = make("summary", {}, make("span", { className: `method ${method}` }, method.toUpperCase()),
    make("strong", {}, operation.summary || ""), make("code", {}, path));
  const element = make("details", { id: operation.operationId }, head);
  element.dataset.words = [method, path, operation.summary, operation.description, ...(operation.tags || [])].join(" ").toLowerCase();
  element.addEventListener("toggle", () => {
    if (element.open && element.children.length === 1) element.append(details(api, method, path, operation));
  });
  return element;
};

const errorSection = (api, operation) => {
  const failures = Object.entries(operation.responses).filter(([status]) => status >= "400");
  const rows = failures.map(([status, response]) =>
    make("tr", {}, make("td", {}, make("code", {}, status)), prose("td", response.description)));
  const schema = failures[0][1].content["application/json"].schema;
  return make("section", { id: "errors" }, make("h2", {}, "errors"),
    make("p", {}, "Every call may answer with these, always in the same form:"), fieldTable(api, schema, { requests: false }),
    make("table", {}, make("tbody", {}, ...rows)));
};

const filter = () => {
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const calls = [...document.querySelectorAll("main details")];
  for (const call of calls) call.hidden = !words.every((word) => call.dataset.words.includes(word));
  for (const group of document.querySelectorAll("main .group")) group.hidden = !group.querySelector("details:not([hidden])");
  const shown = calls.filter((call) => !call.hidden).length;
  document.getElementById("count").textContent =
    shown ? `${shown} of ${calls.length} calls` : "No call has these words in its name, path or description.";
};

// Open the call that the address names: /docs#list_runs
const openNamed = () => {
  const named = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!named) return;
  if (named.tagName === "DETAILS") named.open = true;
  named.scrollIntoView();
};

const draw = (api) => {
  const groups = new Map();
  for (const [path, operations] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const tag = (operation.tags || ["service"])[0];
      if (!groups.has(tag)) groups.set(tag, []);
      groups.get(tag).push(entry(api, method, path, operation));
    }
  }
  const main = document.querySelector("main");
  const sections = [...groups].map(([tag, items]) => make("section", { className: "group" }, make("h2", {}, tag), ...items));
  const [first] = Object.values(Object.values(api.paths)[0]);
  main.replaceChildren(...sections, errorSection(api, first));
  filter();
  openNamed();
};

const field = document.getElementById("key");
field.value = sessionStorage.getItem("lcl-key") || "";
field.addEventListener("change", () => sessionStorage.setItem("lcl-key", key()));
document.getElementById("filter").addEventListener("input", filter);
addEventListener("hashchange", openNamed);
fetch("/openapi.json")
  .then((response) => response.json())
  .then(draw)
  .catch((error) => { document.querySelector("main").textContent = `The description could not be loaded: ${error.message}`; });
