// Transactional batches, in place of the library's handler, which keeps the operations before a failed one and has no
// patch. https://learn.microsoft.com/azure/cosmos-db/transactional-batch
//
// * All operations have one partition key. All succeed (200), or the documents stay as they were (207).
// * An operation sees the changes of the operations before it.
// * A result has statusCode, requestCharge, eTag and resourceBody. If an operation fails, its result has its status,
//   and all others have 424.

import { createRequire } from "node:module";
import { PARTITION_KEY, failure, patch } from "./cosmos_documents.mjs";
import { DocumentTooLarge } from "./cosmos_store.mjs";

const require = createRequire(import.meta.url);
const documentOperations = require("@vercel/cosmosdb-server/lib/handler/_document-operations");
const { parsePartitionKey } = require("@vercel/cosmosdb-server/lib/utils/get-partition-from-header");
const readJson = require("@vercel/cosmosdb-server/lib/json").default;

const MOST_OPERATIONS = 100;
const NOT_EXECUTED = { statusCode: 424, requestCharge: 0 };
const PARTITION_KEY_MISMATCH = 1001;

const HANDLERS = {
  Create: documentOperations.createOperation,
  Upsert: documentOperations.upsertOperation,
  Replace: documentOperations.replaceOperation,
  Delete: documentOperations.deleteOperation,
  Read: read,
  Patch: (collection, { resourceBody, ...operation }) => patch(collection, { ...operation, ...resourceBody }),
};

export async function answerBatch(account, req, res, { dbId, collId }) {
  const operations = await readJson(req);
  const partitionKey = req.headers[PARTITION_KEY];
  const refusal = refuse(operations, partitionKey);
  if (refusal) return failure(res, 400, refusal);
  // Synchronous, so that no other request sees a part of the batch.
  const results = executeAll(account.database(dbId).collection(collId), partitionKey, operations);
  res.statusCode = results.every(({ statusCode }) => statusCode < 300) ? 200 : 207;
  res.setHeader("x-ms-request-charge", String(results.reduce((sum, { requestCharge }) => sum + requestCharge, 0)));
  return results;
}

function refuse(operations, partitionKey) {
  if (!partitionKey) return "PartitionKey value must be supplied for this operation.";
  if (!Array.isArray(operations) || !operations.length) return "Batch request has no operations.";
  if (operations.length > MOST_OPERATIONS) return "Batch request has more operations than what is supported.";
  const unknown = operations.find((operation) => !Object.hasOwn(HANDLERS, operation?.operationType));
  return unknown && `Batch request has an operation of the unknown type ${unknown.operationType}.`;
}

function executeAll(collection, partitionKey, operations) {
  const results = [];
  const before = new Map();
  const current = (id) => collection.document(id, parsePartitionKey(partitionKey, id)).read();
  for (const operation of operations) {
    const id = operation.id ?? operation.resourceBody?.id;
    if (!before.has(id)) before.set(id, current(id));
    const result = execute(collection, partitionKey, operation);
    if (result.statusCode >= 400) {
      restore(collection, before, current);
      return operations.map((each) => (each === operation ? result : NOT_EXECUTED));
    }
    results.push(result);
  }
  return results;
}

function execute(collection, partitionKey, operation) {
  const { statusCode, subStatusCode, body } = outcome(collection, partitionKey, operation);
  const result = { statusCode, subStatusCode, requestCharge: 1 };
  return statusCode < 300 ? { ...result, eTag: body?._etag, resourceBody: body } : result;
}

function outcome(collection, partitionKey, operation) {
  const { operationType, id, ifMatch, resourceBody } = operation;
  if (["Create", "Upsert", "Replace"].includes(operationType)) {
    const partition = parsePartitionKey(partitionKey, resourceBody?.id);
    if (collection.documents._getPartition(resourceBody ?? {}) !== partition) {
      return { statusCode: 400, subStatusCode: PARTITION_KEY_MISMATCH };
    }
    if (operationType === "Replace" && resourceBody.id !== id) return { statusCode: 400 };
  }
  try {
    const request = { ...operation, partitionKey, ifMatch: ifMatch === "*" ? undefined : ifMatch };
    return HANDLERS[operationType](collection, request);
  } catch (error) {
    if (error instanceof DocumentTooLarge) return { statusCode: 413 };
    throw error;
  }
}

// Only a read has ifNoneMatch. The status 304 does not fail the batch.
// https://learn.microsoft.com/rest/api/cosmos-db/common-cosmosdb-rest-request-headers
function read(collection, operation) {
  const found = documentOperations.readOperation(collection, operation);
  return found.body._etag && found.body._etag === operation.ifNoneMatch ? { statusCode: 304 } : found;
}

// Documents are never changed in place, so that the old ones can be put back.
function restore({ documents }, before, current) {
  const changed = [...before].filter(([id, document]) => current(id) !== document);
  for (const [id] of changed) {
    const document = current(id);
    if (document) documents.delete(id, documents._getPartition(document));
  }
  for (const [, document] of changed) if (document) documents._set(document);
}
