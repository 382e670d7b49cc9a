// The files of Azurite: a database (LokiJS, a JSON file) for each service, and "extents": files with the bodies of
// messages and blobs, of which the databases name parts. Azurite itself saves a changed database every five seconds, and
// each at another time.

import { existsSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const Loki = createRequire(import.meta.url)("lokijs");

const SAVE_INTERVAL_MS = 250;
const SERVICES = ["queue", "blob"];
const EXTENTS = SERVICES.map((service) => `__azurite_db_${service}_extent__.json`);
const DATABASES = [...SERVICES, "table"].map((service) => `__azurite_db_${service}__.json`);
const EXTENT_ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

// Makes Azurite save its changes within a quarter of a second, and when it ends. All databases are saved without a pause
// in between, so that they fit together: those of the extents first, because the others refer to them.
export function keepSaved() {
  const open = new Set();
  Loki.prototype.autosaveEnable = function register() {
    open.add(this);
  };
  const isOfExtents = ({ filename }) => EXTENTS.some((name) => filename.endsWith(name));
  const save = () => {
    const changed = [...open].filter((database) => database.autosaveDirty());
    for (const database of changed.sort((a, b) => isOfExtents(b) - isOfExtents(a))) {
      const written = `${database.filename}.new`;
      writeFileSync(written, database.serialize());
      renameSync(written, database.filename);
      database.autosaveClearFlags();
    }
  };
  setInterval(save, SAVE_INTERVAL_MS);
  process.on("exit", save);
}

// Returns a sentence about the first damage, or undefined.
export function findDamage(folder) {
  if (!existsSync(folder)) return undefined; // the first start
  const databases = {};
  for (const name of [...EXTENTS, ...DATABASES]) {
    try {
      databases[name] = JSON.parse(readFileSync(join(folder, name), "utf8"));
      if (!databases[name].collections.every(({ data }) => Array.isArray(data))) throw new Error("no collections");
    } catch (error) {
      return `${name} cannot be read: ${error.message.split("\n")[0]}`;
    }
  }
  for (const service of SERVICES) {
    for (const part of parts(databases[`__azurite_db_${service}__.json`].collections.map(({ data }) => data))) {
      const file = join(`__${service}storage__`, part.id);
      const size = statSync(join(folder, file), { throwIfNoEntry: false })?.size ?? 0;
      if (size < part.offset + part.count) return `${file} is too short`;
    }
  }
  return undefined;
}

// Yields the parts of extents in a value: {id, offset, count}, in bytes.
function* parts(value) {
  if (value === null || typeof value !== "object") return;
  if (value.count > 0 && typeof value.offset === "number" && EXTENT_ID.test(value.id)) yield value;
  else for (const each of Object.values(value)) yield* parts(each);
}
