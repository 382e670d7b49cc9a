// Cures @zeit/cosmosdb-query, which turns a query into JavaScript over arrays:
//
// * a loop over what is no list (`JOIN f IN c.flows` where flows is an object, a string, null …) finds nothing in that
//   document, as on Azure, instead of failing the whole query;
// * its cost grows with the number of documents, not with the square of it.

import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const helpers = require("@zeit/cosmosdb-query/lib/helpers");
const transformer = require("@zeit/cosmosdb-query/lib/transformer");

helpers.list = (value) => (Array.isArray(value) ? value : []);

const transform = transformer.default;
transformer.default = (sql) => {
  const program = transform(sql);
  visit(program);
  return program;
};

function visit(node) {
  if (Array.isArray(node)) node.forEach(visit);
  else if (node && typeof node === "object") {
    cureLoop(node);
    cureSpread(node);
    Object.values(node).forEach(visit);
  }
}

const isMethod = (node, name) =>
  node.type === "CallExpression" && node.callee.type === "MemberExpression" && node.callee.property.name === name;

// `(c.flows || []).map(…)` becomes `$h.list(c?.flows).map(…)`
function cureLoop(node) {
  const source = node.callee?.object;
  if (!isMethod(node, "map") || source.type !== "LogicalExpression" || source.operator !== "||") return;
  node.callee.object = {
    type: "CallExpression",
    callee: {
      type: "MemberExpression",
      object: { type: "Identifier", name: "$h" },
      property: { type: "Identifier", name: "list" },
    },
    arguments: [forgiving(source.left)],
  };
}

function forgiving(node) {
  if (node.type !== "MemberExpression") return node;
  return { ...node, type: "OptionalMemberExpression", optional: true, object: forgiving(node.object) };
}

// `.reduce(($, c) => [...$, {c}], [])` becomes `.flatMap(c => [{c}])`
function cureSpread(node) {
  if (!isMethod(node, "reduce")) return;
  const [step] = node.arguments;
  const [, document] = step.params;
  const own = (array) => ({ ...array, elements: array.elements.slice(1) });
  const { body } = step;
  step.params = [document];
  step.body =
    body.type === "ConditionalExpression"
      ? { ...body, consequent: own(body.consequent), alternate: { type: "ArrayExpression", elements: [] } }
      : own(body);
  node.callee.property = { type: "Identifier", name: "flatMap" };
  node.arguments = [step];
}

export const parse = require("@zeit/cosmosdb-query").default;
export const { SyntaxError } = require("@zeit/cosmosdb-query");
