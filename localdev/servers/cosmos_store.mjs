// Corrects how @vercel/cosmosdb-server stores items:
//
// * ETags have quotes, as on Azure.
// * A replaced container (for instance with another time to live) keeps its items.
// * Time to live works: `defaultTtl` of the container (seconds; with -1, only items with a `ttl` expire), and `ttl` of
//   an item.

import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const Items = require("@vercel/cosmosdb-server/lib/account/items").default;
const Collections = require("@vercel/cosmosdb-server/lib/account/collections").default;

const setItem = Items.prototype._set;
Items.prototype._set = function set(data) {
  return setItem.call(this, { ...data, _etag: `"${data._etag.replaceAll('"', "")}"` });
};

const replaceItem = Items.prototype.replace;
Collections.prototype.replace = function replace(data, original) {
  const { documents } = this._data.get(original._rid);
  const replaced = replaceItem.call(this, data, original);
  const collection = this._data.get(original._rid);
  collection.documents = documents;
  documents._parent = collection;
  return replaced;
};

export function expireDocuments(account) {
  const now = Date.now() / 1000;
  for (const database of account.databases._data.values()) {
    for (const collection of database.collections._data.values()) {
      const { defaultTtl } = collection.read();
      if (defaultTtl === undefined || defaultTtl === null) continue;
      const { documents } = collection;
      for (const item of [...documents._data.values()]) {
        const document = item.read();
        const ttl = document.ttl ?? defaultTtl;
        if (ttl > 0 && document._ts + ttl <= now) documents.delete(document.id, documents._getPartition(document));
      }
    }
  }
}
