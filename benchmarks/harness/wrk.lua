-- For wrk: POST the file that $TFSHIP_BODY names; at the end, print what wrk's own report leaves out, to be read by
-- benchmarks/load.py: the counts of everything that went wrong, and every latency with how often it was seen.

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local file = assert(io.open(os.getenv("TFSHIP_BODY"), "rb"))
wrk.body = file:read("*a")
file:close()

-- The counts come last: where the output was cut off, they are missing.
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
