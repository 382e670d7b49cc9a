// Corrects @zeit/cosmosdb-query, which translates a query to JavaScript over arrays:
//
// * A loop over a value that is not an array (`JOIN f IN c.flows`, and flows is an object, a string, null …) has no
//   results for that document, as on Azure. (In the library, the whole query fails.)
// * The cost of a query is linear in the number of documents. (In the library, quadratic.)

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
    correctLoop(node);
    correctSpread(node);
    Object.values(node).forEach(visit);
  }
}

const isMethod = (node, name) =>
  node.type === "CallExpression" && node.callee.type === "MemberExpression" && node.callee.property.name === name;

// `(c.flows || []).map(…)` becomes `$h.list(c?.flows).map(…)`
function correctLoop(node) {
  const source = node.callee?.object;
  if (!isMethod(node, "map") || source.type !== "LogicalExpression" || source.operator !== "||") return;
  node.callee.object = {
    type: "CallExpression",
    callee: {
      type: "MemberExpression",
      object: { type: "Identifier", name: "$h" },
      property: { type: "Identifier", name: "list" },
    },
    arguments: [optional(source.left)],
  };
}

// `c.flows` becomes `c?.flows`
function optional(node) {
  if (node.type !== "MemberExpression") return node;
  return { ...node, type: "OptionalMemberExpression", optional: true, object: optional(node.object) };
}

// `.reduce(($, c) => [...$, {c}], [])` becomes `.flatMap(c => [{c}])`
function correctSpread(node) {
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
