-- What wrk sends and what it reports. The environment names a file of prepared requests in REQUESTS: they are sent one
-- after the other, each once, or over and over where AGAIN is set. Without a file the URL is asked for.
-- The file holds, for each request, its length in eight digits and its bytes. One thread only.
-- The last line on stdout is what was measured, as JSON; times are in microseconds.

local name = os.getenv("REQUESTS")
local again = os.getenv("AGAIN")

sent = 0  -- global, so that done() can ask the thread for it

if name then
    local requests = io.open(name, "rb")
    requests:setvbuf("full", 1048576)

    function request()
        local length = requests:read(8)
        if not length and again then
            requests:seek("set")
            length = requests:read(8)
        end
        if not length then
            wrk.thread:stop()
            return ""
        end
        sent = sent + 1
        return requests:read(tonumber(length))
    end
end

local the_thread

function setup(thread)
    the_thread = thread
end

function done(summary, latency)
    local errors = summary.errors
    io.write(string.format(
        '\n{"sent": %d, "answered": %d, "duration_us": %d, "p50_us": %d, "p99_us": %d, ' ..
        '"refused": %d, "lost": %d}\n',
        the_thread:get("sent"), summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        errors.status, errors.connect + errors.read + errors.write + errors.timeout
    ))
end
