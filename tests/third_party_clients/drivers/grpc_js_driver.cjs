// Driver of @grpc/grpc-js, with the commands of line_protocol.py.
const fs = require("fs");
const readline = require("readline");
const grpc = require("@grpc/grpc-js");

const clients = {};
const calls = {};
const say = (fields) => process.stdout.write(JSON.stringify(fields) + "\n");
const text = (path) => (path ? fs.readFileSync(path) : null);
const same = (bytes) => bytes;

function connect(command) {
  const credentials = command.ca
    ? grpc.credentials.createSsl(text(command.ca), text(command.key), text(command.certificate))
    : grpc.credentials.createInsecure();
  const options = {
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
    "grpc.enable_http_proxy": 0,
  };
  if (command.gzip) options["grpc.default_compression_algorithm"] = 2;
  if (command.keepalive_ms) {
    options["grpc.keepalive_time_ms"] = command.keepalive_ms;
    options["grpc.keepalive_permit_without_calls"] = 1;
  }
  clients[command.id] = new grpc.Client(`localhost:${command.port}`, credentials, options);
  say({ id: command.id, code: 0, message: "" });
}

function call(command) {
  const options = command.timeout === null ? {} : { deadline: Date.now() + 1000 * command.timeout };
  const done = (error, response) => {
    if (!error) fs.writeFileSync(command.response, response);
    say({ id: command.id, code: error ? error.code : 0, message: error ? error.details : "" });
  };
  const request = fs.readFileSync(command.request);
  const client = clients[command.channel];
  calls[command.id] = client.makeUnaryRequest(
    command.path, same, same, request, new grpc.Metadata(), options, done);
}

const lines = readline.createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const command = JSON.parse(line);
  if (command.do === "connect") connect(command);
  else if (command.do === "call") call(command);
  else {
    calls[command.call].cancel();
    say({ id: command.id, code: 0, message: "" });
  }
});
lines.on("close", () => process.exit(0));
