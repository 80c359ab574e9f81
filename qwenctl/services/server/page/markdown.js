// Markdown to DOM nodes: what models write, nothing else. All text becomes text nodes, so nothing in an answer can become
// markup; links keep http, https and mailto only.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^(#{1,6})\s+(.*?)\s*#*$/;
const ITEM = /^(\s*)(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;
const RULE = /^ {0,3}([-*_])(?:\s*\1){2,}\s*$/;
const DIVIDER = /^\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$/;

/** Return the nodes that `text` makes. An unfinished block counts as going to the end. */
export function render(text) {
  const lines = text.replace(/\r\n?/g, "\n").split("\n");
  const nodes = [];
  for (let at = 0; at < lines.length; ) at = block(lines, at, nodes);
  return nodes;
}

function block(lines, at, nodes) {
  const line = lines[at];
  if (!line.trim()) return at + 1;
  const fence = line.match(FENCE);
  if (fence) return fenced(lines, at, fence, nodes);
  const heading = line.match(HEADING);
  if (heading) {
    nodes.push(element(`h${Math.min(6, heading[1].length + 1)}`, inline(heading[2])));
    return at + 1;
  }
  if (RULE.test(line)) {
    nodes.push(element("hr"));
    return at + 1;
  }
  if (/^ {0,3}>/.test(line)) return quoted(lines, at, nodes);
  if (ITEM.test(line)) return list(lines, at, nodes);
  if (line.includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && DIVIDER.test(lines[at + 1]))
    return table(lines, at, nodes);
  return paragraph(lines, at, nodes);
}

function fenced(lines, at, [, mark, info], nodes) {
  const end = new RegExp(`^ {0,3}\\${mark[0]}{${mark.length},}\\s*$`);
  const inner = [];
  for (at += 1; at < lines.length && !end.test(lines[at]); at += 1) inner.push(lines[at]);
  const code = element("code", [inner.join("\n")]);
  const pre = element("pre", [code]);
  pre.dataset.language = info.trim().split(/\s/)[0];
  nodes.push(pre);
  return at + 1;
}

function quoted(lines, at, nodes) {
  const inner = [];
  for (; at < lines.length && /^ {0,3}>/.test(lines[at]); at += 1) inner.push(lines[at].replace(/^ {0,3}> ?/, ""));
  nodes.push(element("blockquote", render(inner.join("\n"))));
  return at;
}

function list(lines, at, nodes) {
  const [, indent, , number] = lines[at].match(ITEM);
  const made = element(number ? "ol" : "ul");
  if (number && number !== "1") made.start = Number(number);
  while (at < lines.length) {
    const item = lines[at].match(ITEM);
    if (!item || item[1].length !== indent.length || Boolean(item[3]) !== Boolean(number)) break;
    const inner = [item[4]];
    const margin = new RegExp(`^\\s{0,${lines[at].length - item[4].length}}`);
    for (at += 1; at < lines.length && belongs(lines, at, indent.length, inner); at += 1)
      inner.push(lines[at].replace(margin, ""));
    while (inner.length > 1 && !inner.at(-1)) inner.pop();
    made.append(element("li", inner.length > 1 ? render(inner.join("\n")) : inline(inner[0])));
  }
  nodes.push(made);
  return at;
}

/** Whether line `at` goes on with an item whose marker is indented by `indent`. */
function belongs(lines, at, indent, inner) {
  const next = lines[at].match(ITEM);
  if (next) return next[1].length > indent;
  if (lines[at].trim()) return /^\s/.test(lines[at]) || Boolean(inner.at(-1));
  const after = lines[at + 1] ?? "";
  return /^\s{2,}\S/.test(after) || ITEM.test(after);
}

function table(lines, at, nodes) {
  const head = element("tr", cells(lines[at]).map((cell) => element("th", inline(cell))));
  const body = element("tbody");
  for (at += 2; at < lines.length && lines[at].includes("|"); at += 1)
    body.append(element("tr", cells(lines[at]).map((cell) => element("td", inline(cell)))));
  nodes.push(element("table", [element("thead", [head]), body]));
  return at;
}

function cells(line) {
  return line.trim().replace(/^\||\|$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function paragraph(lines, at, nodes) {
  const inner = [];
  for (; at < lines.length && lines[at].trim() && !(inner.length && begins(lines[at])); at += 1) inner.push(lines[at]);
  const made = element("p");
  inner.forEach((line, index) => {
    if (index) made.append(/ {2,}$/.test(inner[index - 1]) ? element("br") : "\n");
    made.append(...inline(line.trimEnd()));
  });
  nodes.push(made);
  return at;
}

function begins(line) {
  return FENCE.test(line) || HEADING.test(line) || ITEM.test(line) || /^ {0,3}>/.test(line) || RULE.test(line);
}

const SPANS = [
  [/^(`+)([\s\S]*?[^`])\1(?!`)/, (found) => element("code", [found[2].replace(/^ (.+) $/, "$1")])],
  [/^\*\*(?=\S)([\s\S]*?\S)\*\*/, (found) => element("strong", inline(found[1]))],
  [/^\*(?=[^\s*])([\s\S]*?[^\s*])\*(?!\*)/, (found) => element("em", inline(found[1]))],
  [/^~~(?=\S)([\s\S]*?\S)~~/, (found) => element("del", inline(found[1]))],
  [/^\[([^\][]*)\]\(([^()\s]*(?:\([^()\s]*\)[^()\s]*)*)\)/, (found) => link(found[1], found[2], found[0])],
];

/** Return the nodes of one line: code, emphasis, links, text. */
function inline(text) {
  const nodes = [];
  let plain = "";
  const flush = () => {
    if (plain) nodes.push(document.createTextNode(plain));
    plain = "";
  };
  while (text) {
    const escaped = text.match(/^\\([\\`*_{}[\]()#+\-.!|~>])/);
    if (escaped) {
      plain += escaped[1];
      text = text.slice(2);
      continue;
    }
    const span = SPANS.find(([pattern]) => pattern.test(text));
    if (span) {
      const found = text.match(span[0]);
      flush();
      nodes.push(span[1](found));
      text = text.slice(found[0].length);
      continue;
    }
    const n = Math.max(1, text.slice(1).search(/[\\`*~[]/) + 1 || text.length);
    plain += text.slice(0, n);
    text = text.slice(n);
  }
  flush();
  return nodes;
}

function link(label, address, source) {
  if (!/^(?:https?:\/\/|mailto:)/i.test(address)) return document.createTextNode(source);
  const made = element("a", inline(label));
  made.href = address;
  made.target = "_blank";
  made.rel = "noopener noreferrer";
  return made;
}

function element(name, children = []) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}
