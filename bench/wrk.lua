-- For wrk: what to send, by the arguments behind `--`, and a result that a program can read.
--
--   get | close | post BYTES | pipeline DEPTH | routes HOSTS PREFIXES

local modes = {}

function modes.get() end

function modes.close()
    wrk.headers["Connection"] = "close"
end

function modes.post(bytes)
    wrk.method = "POST"
    wrk.body = string.rep("x", tonumber(bytes))
end

-- wrk finds out by itself how many requests are in a string.
function modes.pipeline(depth)
    local all = string.rep(wrk.format(), tonumber(depth))
    request = function() return all end
end

-- Every route in turn, in an order that jumps about.
function modes.routes(hosts, prefixes)
    local all, count = {}, hosts * prefixes
    for i = 0, count - 1 do
        local n = (i * 379) % count
        local host, prefix = math.floor(n / prefixes), n % prefixes
        wrk.headers["Host"] = string.format("h%d.example.com", host)
        all[i + 1] = wrk.format("GET", string.format("/p%d/x", prefix))
    end
    local i = 0
    request = function()
        i = i % count + 1
        return all[i]
    end
end

function init(args)
    wrk.headers["Host"] = wrk.headers["Host"] or "bench.example.com"
    modes[args[1]](args[2], args[3])
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format(
        "RESULT {\"requests\": %d, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f, " ..
        "\"broken\": %d, \"refused\": %d}\n",
        summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99),
        e.connect + e.read + e.write + e.timeout, e.status))
end
