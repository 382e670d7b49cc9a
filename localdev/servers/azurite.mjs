// Runs Azurite's command line in this process. Azurite prints its addresses, and they become the ready line.
//
// Options: {queuePort, blobPort, tablePort, cert, key, folder}. Port 0 means a free port. cert and key (paths of PEM
// files) turn on https and bearer tokens. The data are kept in the folder; without one, in memory.
// Ready: {queue, blob, table}, each "http(s)://127.0.0.1:port".

import { createRequire } from "node:module";
import { findDamage, keepSaved } from "./azurite_files.mjs";
import { damaged, options, ready } from "./parent.mjs";

const flags = ["--skipApiVersionCheck", "--disableTelemetry", "--silent"];
if (options.folder) flags.push("--location", options.folder);
else flags.push("--inMemoryPersistence");
for (const service of ["queue", "blob", "table"]) {
  flags.push(`--${service}Port`, String(options[`${service}Port`]));
  // Longer than clients keep an idle connection. Else the server could close one that a client is about to use.
  flags.push(`--${service}KeepAliveTimeout`, "120");
}
if (options.cert) {
  flags.push("--cert", options.cert, "--key", options.key, "--oauth", "basic");
}
process.argv.splice(2, Infinity, ...flags);

// These would be settings of another Azurite on this machine: its accounts, and its database.
delete process.env.AZURITE_ACCOUNTS;
delete process.env.AZURITE_DB;

const load = createRequire(import.meta.url);

// In memory, each message is an extent of its own. To sweep them, Azurite answers nothing for seconds, or for a minute.
if (!options.folder) load("azurite/dist/src/queue/utils/constants.js").DEFAULT_GC_INTERVAL_MS = 86_400_000;

const addresses = {};
console.log = (line) => {
  const listening = /^Azurite (\w+) service is successfully listening at (.+)$/.exec(line);
  if (!listening) return;
  addresses[listening[1].toLowerCase()] = listening[2];
  if (Object.keys(addresses).length === 3) ready(addresses);
};

const damage = options.folder && findDamage(options.folder);
if (damage) damaged(damage);
else {
  if (options.folder) keepSaved();
  load("azurite/dist/src/azurite.js");
}
