// The Solidity compiler's command line on top of npm's `solc` (the same compiler built for WebAssembly), so that
// Brownie, Forge and Slither can compile without a native binary. It covers the options that those tools use
// and refuses every other one, rather than compile something that was not asked for.
"use strict";
const fs = require("node:fs");
const path = require("node:path");

const ROOT = path.resolve(__dirname, "..", "..");
const PACKAGE = path.join(ROOT, "node_modules", "solc");
const BINARY = path.join(PACKAGE, "soljson.js");

const fail = (message) => {
  process.stderr.write(`Error: ${message}\n`);
  process.exit(1);
};

// A pipe may be full for a moment, and outputs run to many megabytes: writeSync alone would lose the rest.
function write(text) {
  const bytes = Buffer.from(text);
  const pause = new Int32Array(new SharedArrayBuffer(4));
  for (let at = 0; at < bytes.length; ) {
    try {
      at += fs.writeSync(1, bytes, at);
    } catch (error) {
      if (error.code === "EPIPE") process.exit(0);
      if (error.code !== "EAGAIN") throw error;
      Atomics.wait(pause, 0, 0, 2);
    }
  }
}

// Loading the compiler takes half a second and tools ask for its version before each run, so the answer is kept
// beside the package, under the size and time of the file that gave it.
function version() {
  const { size, mtimeMs } = fs.statSync(BINARY);
  const key = `${size}-${mtimeMs}`;
  const cache = path.join(PACKAGE, ".long-version");
  try {
    const [known, text] = fs.readFileSync(cache, "utf8").split("\n");
    if (known === key && text) return text;
  } catch {
    // not asked before
  }
  const text = require(PACKAGE).version().replace(/\.Emscripten\.clang$/, "");
  try {
    const fresh = `${cache}.${process.pid}`;
    fs.writeFileSync(fresh, `${key}\n${text}`);
    fs.renameSync(fresh, cache);
  } catch {
    // a read-only folder only costs time
  }
  return text;
}

function parse(argv) {
  const options = { files: [], remappings: [], include: [], allow: [], optimizer: { enabled: false, runs: 200 } };
  const args = argv.flatMap((arg) => (/^--[a-z-]+=/.test(arg) ? [arg.slice(0, arg.indexOf("=")), arg.slice(arg.indexOf("=") + 1)] : [arg]));
  while (args.length) {
    const arg = args.shift();
    const value = () => (args.length ? args.shift() : fail(`${arg} needs a value`));
    if (arg === "--version") options.version = true;
    else if (arg === "--standard-json") options.standard = true;
    else if (arg === "--combined-json") options.combined = value().split(",");
    else if (arg === "--base-path") options.base = value();
    else if (arg === "--include-path") options.include.push(value());
    else if (arg === "--allow-paths") options.allow.push(...value().split(",").filter(Boolean));
    else if (arg === "--evm-version") options.evm = value();
    else if (arg === "--optimize") options.optimizer.enabled = true;
    else if (arg === "--optimize-runs") options.optimizer.runs = Number(value());
    else if (arg === "--via-ir") options.viaIR = true;
    else if (arg === "-" || !arg.startsWith("-")) (arg.includes("=") ? options.remappings : options.files).push(arg);
    else fail(`option ${arg} is not supported by this wrapper of npm's solc`);
  }
  return options;
}

const real = (file) => {
  try {
    return fs.realpathSync(file);
  } catch {
    return null;
  }
};
const inside = (file, folder) => file === folder || file.startsWith(folder.endsWith(path.sep) ? folder : folder + path.sep);

// Imports are read from the base path, the include paths and the folders allowed by name; links are followed first,
// so a link cannot lead outside.
function reader(options, sources) {
  const roots = [options.base || process.cwd(), ...options.include];
  const folders = [...roots, ...options.allow, ...sources.map((file) => path.dirname(file))].map(real).filter(Boolean);
  return (name) => {
    const wanted = name.replace(/^file:\/\//, "");
    for (const root of roots) {
      const file = real(path.resolve(root, wanted));
      if (!file || !fs.statSync(file).isFile()) continue;
      if (!folders.some((folder) => inside(file, folder))) return { error: `File outside of allowed directories: ${name}` };
      return { contents: fs.readFileSync(file, "utf8") };
    }
    return { error: `File not found: ${name}` };
  };
}

const compile = (input, callback) => require(PACKAGE).compile(input, { import: callback });

function standard(options) {
  const file = options.files[0];
  const input = fs.readFileSync(file && file !== "-" ? file : 0, "utf8");
  write(compile(input, reader(options, [])));
}

// The older output format, which Slither reads: made from the standard one.
const SELECT = { abi: "abi", ast: "ast", bin: "evm.bytecode.object", "bin-runtime": "evm.deployedBytecode.object",
  srcmap: "evm.bytecode.sourceMap", "srcmap-runtime": "evm.deployedBytecode.sourceMap", hashes: "evm.methodIdentifiers",
  userdoc: "userdoc", devdoc: "devdoc", metadata: "metadata" };

function combined(options) {
  const unknown = options.combined.filter((name) => !SELECT[name]);
  if (unknown.length) fail(`--combined-json ${unknown.join(",")} is not supported by this wrapper of npm's solc`);
  const wanted = options.combined.filter((name) => name !== "ast").map((name) => SELECT[name]);
  const input = {
    language: "Solidity",
    sources: Object.fromEntries(options.files.map((file) => [file, { content: fs.readFileSync(file, "utf8") }])),
    settings: { optimizer: options.optimizer, remappings: options.remappings, viaIR: options.viaIR, evmVersion: options.evm,
      outputSelection: { "*": { "*": wanted, "": ["ast"] } } },
  };
  const output = JSON.parse(compile(JSON.stringify(input), reader(options, options.files)));
  for (const error of output.errors || []) process.stderr.write(`${error.formattedMessage}\n`);
  if ((output.errors || []).some((error) => error.severity === "error")) process.exit(1);
  const contracts = {};
  for (const [file, all] of Object.entries(output.contracts || {}))
    for (const [name, contract] of Object.entries(all))
      contracts[`${file}:${name}`] = Object.fromEntries(options.combined.filter((key) => key !== "ast")
        .map((key) => [key, SELECT[key].split(".").reduce((value, part) => value?.[part], contract)]));
  const sources = Object.fromEntries(Object.entries(output.sources || {}).map(([file, { ast }]) => [file, { AST: ast }]));
  const ordered = Object.entries(output.sources || {}).sort(([, a], [, b]) => a.id - b.id).map(([file]) => file);
  write(JSON.stringify({ contracts, sourceList: ordered, sources, version: version() }) + "\n");
}

if (!fs.existsSync(BINARY)) fail("npm's solc is not installed; run `make setup`");
const options = parse(process.argv.slice(2));
if (options.version) write(`solc, the solidity compiler commandline interface\nVersion: ${version()}\n`);
else if (options.standard) standard(options);
else if (options.combined) combined(options);
else fail("this wrapper of npm's solc needs --version, --standard-json or --combined-json");
