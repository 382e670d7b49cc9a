// The link to the parent process: the options, the ready line, and the exit when the parent ends.

// The only argument is a JSON object.
export const options = JSON.parse(process.argv[2]);

// The parent reads this line. It uses all other output for error messages only.
export function ready(facts) {
  process.stdout.write(`${JSON.stringify({ ready: facts })}\n`);
}

// Ends this process: its data cannot be used. The parent keeps them aside, and says why.
export function damaged(why) {
  process.stdout.write(`${JSON.stringify({ damaged: why })}\n`, () => process.exit(1));
}

// Standard input ends when the parent closes it or ends.
process.stdin.on("end", () => process.exit(0));
process.stdin.on("error", () => process.exit(0));
process.stdin.resume();
