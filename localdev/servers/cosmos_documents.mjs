// Queries and patches of documents, in place of the library's handlers, which differ from Azure:
//
// * A query with a partition key sees that partition only. (The library refuses it, or reads all partitions.)
// * A page has 100 items by default. (In the library, all items.)
// * The condition of a patch keeps its case, and is checked against that document only. (The library changes it to
//   lower case, and checks all documents with that id in any partition.)
// * A patch below a missing field is refused. (The library adds the value at the top of the document.)
// * Only a number or a missing field can be incremented. (In the library, also null.)

import { createRequire } from "node:module";
import { parse } from "./cosmos_query.mjs";

const require = createRequire(import.meta.url);
const { patchOperation } = require("@vercel/cosmosdb-server/lib/handler/_patch-operations");
const { parsePartitionKey } = require("@vercel/cosmosdb-server/lib/utils/get-partition-from-header");
const readItems = require("@vercel/cosmosdb-server/lib/handler/_read-items").default;
const readJson = require("@vercel/cosmosdb-server/lib/json").default;

export const PARTITION_KEY = "x-ms-documentdb-partitionkey";
const DEFAULT_PAGE = 100;
const LARGEST_PAGE = 1000;
const CONDITION_NOT_MET = 1110;

export function answerQuery(account, req, res, { dbId, collId }) {
  return readItems(req, res, "Documents", async ({ continuation, maxItemCount }) => {
    const { query, parameters } = await readJson(req);
    if (!query) return failure(res, 400, "The request has no query.");
    const collection = account.database(dbId).collection(collId);
    try {
      return collection.documents._getQuery(query).exec(visible(collection, req.headers[PARTITION_KEY]), {
        parameters,
        continuation,
        maxItemCount: maxItemCount < 0 ? LARGEST_PAGE : maxItemCount || DEFAULT_PAGE,
        compositeIndexes: collection.read().indexingPolicy?.compositeIndexes ?? [],
      });
    } catch (error) {
      return failure(res, 400, error.message);
    }
  });
}

// `partitionKey` is a JSON list of one value. The value {} means that documents have no partition key.
function visible({ documents }, partitionKey) {
  const all = [...documents._data.values()].map((item) => item.read());
  if (!partitionKey) return all;
  const [wanted] = JSON.parse(partitionKey);
  const value = wanted && typeof wanted === "object" ? undefined : wanted;
  return all.filter((document) => documents._getPartition(document) === value);
}

export async function answerPatch(account, req, res, { dbId, collId, docId }) {
  const body = await readJson(req);
  const { statusCode, subStatusCode, body: answer } = patch(account.database(dbId).collection(collId), {
    id: docId,
    partitionKey: req.headers[PARTITION_KEY],
    ifMatch: req.headers["if-match"],
    operations: Array.isArray(body) ? body : body.operations,
    condition: body.condition,
  });
  if (statusCode >= 400) return failure(res, statusCode, answer.message, subStatusCode);
  return answer;
}

// Returns {statusCode, subStatusCode, body}. The body is the new document, or {message}.
export function patch(collection, { id, partitionKey, ifMatch, operations, condition }) {
  if (!operations?.length) return refused(400, "Invalid patch request: it has no operations.");
  const document = collection.document(id, parsePartitionKey(partitionKey, id)).read();
  if (document && condition) {
    try {
      const held = parse(`SELECT VALUE 1 ${condition}`).exec([document]).result.length > 0;
      if (!held) return refused(412, "One of the specified pre-condition is not met.", CONDITION_NOT_MET);
    } catch (error) {
      return refused(400, `Invalid condition in the patch request: ${error.message}`);
    }
  }
  const mistake = document && findMistake(document, operations);
  if (mistake) return refused(400, mistake);
  return patchOperation(collection, { id, partitionKey, ifMatch, operations });
}

const refused = (statusCode, message, subStatusCode) => ({ statusCode, subStatusCode, body: { message } });

// Returns a message about the first operation that the library would apply and Azure refuses. An operation sees the
// changes of the operations before it.
function findMistake(document, operations) {
  let state = document;
  for (const operation of operations) {
    const names = String(operation.path).split("/").slice(1).map(unescape);
    const parent = names.slice(0, -1).reduce((node, name) => node?.[name], state);
    if (parent === undefined) return `A patch can only create a child of an existing node, not ${operation.path}.`;
    if (operation.op === "incr" && parent?.[names.at(-1)] === null) return `${operation.path} is not a number.`;
    const single = { document: () => ({ read: () => state }), documents: { replace: (patched) => patched } };
    const { statusCode, body } = patchOperation(single, { partitionKey: '[""]', operations: [operation] });
    if (statusCode !== 200) return undefined; // another mistake, which the whole patch reports
    state = body;
  }
  return undefined;
}

const unescape = (name) => name.replaceAll("~1", "/").replaceAll("~0", "~");

export function failure(res, status, message, substatus) {
  res.statusCode = status;
  if (substatus) res.setHeader("x-ms-substatus", substatus);
  return { message };
}
