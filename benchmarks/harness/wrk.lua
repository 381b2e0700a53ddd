-- For wrk: POST the file $TFSHIP_BODY. At the end, print what wrk's report leaves out, for benchmarks/harness/
-- load_generators.py: the number of errors by kind, and every latency with its frequency.

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = assert(io.open(os.getenv("TFSHIP_BODY"), "rb"))
wrk.body = file:read("*a")
file:close()

-- The numbers of errors come last, so that truncated output is detected.
function done(summary, latency)
   for index = 1, #latency do
      print(string.format("tfship latency %d %d", latency(index)))
   end
   print(string.format("tfship requests %d", summary.requests))
   print(string.format("tfship microseconds %d", summary.duration))
   print(string.format("tfship bytes %d", summary.bytes))
   for _, kind in ipairs({ "connect", "read", "write", "status", "timeout" }) do
      print(string.format("tfship error-%s %d", kind, summary.errors[kind]))
   end
end
