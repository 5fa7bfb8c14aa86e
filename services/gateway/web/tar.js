// A tar archive (ustar, with pax records for names that ustar cannot hold) made of File objects, without reading them:
// the browser reads each file as the archive is sent.

const BLOCK = 512;
const NAME_BYTES = 100;
const PREFIX_BYTES = 155;
const encoder = new TextEncoder();

// entries: [{path: "src/app.js", file: File}], paths relative, with "/". Returns a Blob.
export function tarOf(entries) {
  const parts = [];
  for (const { path, file } of entries) {
    const seconds = Math.max(0, Math.floor((file.lastModified || 0) / 1000));
    const place = ustarPlace(path);
    if (!place) parts.push(...paxRecord(path, seconds));
    parts.push(header(place ?? { name: encoder.encode(path).slice(0, NAME_BYTES), prefix: null }, file.size, seconds, "0"));
    parts.push(file, padding(file.size));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  return new Blob(parts, { type: "application/x-tar" });
}

// Where the name goes in a ustar header, or null when it is too long or not plain ASCII.
function ustarPlace(path) {
  const whole = encoder.encode(path);
  if (whole.length !== path.length) return null;
  if (whole.length <= NAME_BYTES) return { name: whole, prefix: null };
  for (let cut = path.indexOf("/", whole.length - NAME_BYTES - 1); cut > 0 && cut <= PREFIX_BYTES; cut = path.indexOf("/", cut + 1)) {
    if (cut < whole.length - 1) return { name: whole.slice(cut + 1), prefix: whole.slice(0, cut) };
  }
  return null;
}

function paxRecord(path, seconds) {
  const tail = encoder.encode(` path=${path}\n`);
  let length = tail.length + 1;
  while (String(length).length + tail.length !== length) length = String(length).length + tail.length;
  const body = new Uint8Array(length);
  body.set(encoder.encode(String(length)));
  body.set(tail, String(length).length);
  const name = { name: encoder.encode("PaxHeader/name"), prefix: null };
  return [header(name, body.length, seconds, "x"), body, padding(body.length)];
}

function header({ name, prefix }, size, seconds, kind) {
  const block = new Uint8Array(BLOCK);
  const put = (offset, text) => block.set(encoder.encode(text), offset);
  block.set(name, 0);
  put(100, "0000644\0");
  put(108, "0000000\0");
  put(116, "0000000\0");
  put(124, `${size.toString(8).padStart(11, "0")}\0`);
  put(136, `${seconds.toString(8).padStart(11, "0")}\0`);
  put(148, "        ");
  put(156, kind);
  put(257, "ustar\x0000");
  if (prefix) block.set(prefix, 345);
  const sum = block.reduce((total, byte) => total + byte, 0);
  put(148, `${sum.toString(8).padStart(6, "0")}\0 `);
  return block;
}

function padding(size) {
  return new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);
}
