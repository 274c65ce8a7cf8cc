-- wrk's script: posts random cids and counts, forms alone. Arguments: number of contents, greatest
-- count, `form` or `webdis` (its way to say SET), `settled` for counts that leave each content where
-- lab.py put it. The last line is one of numbers for lab.py.
local contents, counts, form, settled = 100000, 2999, true, false

function init(args)
    contents = tonumber(args[1]) or contents
    counts = tonumber(args[2]) or counts
    form = args[3] ~= "webdis"
    settled = args[4] == "settled"
    math.randomseed(tonumber(args[5]) or 1)
    wrk.method = "POST"
    wrk.headers["Content-Type"] = "application/x-www-form-urlencoded"
end

-- What webdis is to store: the same JSON that tierd and the Flask version store, percent-encoded.
local stored = "SET/%d/%%7B%%22cid%%22%%3A%%20%%22%d%%22%%2C%%20%%22count%%22%%3A%%20%%22%d%%22%%2C%%20" ..
    "%%22target%%22%%3A%%20%%22silver%%22%%2C%%20%%22db_level%%22%%3A%%20%%22bronze%%22%%2C%%20" ..
    "%%22filename%%22%%3A%%20%%22%d.mp4%%22%%2C%%20%%22worker_id%%22%%3A%%20null%%2C%%20" ..
    "%%22status%%22%%3A%%20%%22update%%22%%7D"

function request()
    local cid, count = math.random(contents), math.random(0, counts)
    if settled then
        count = cid % 3 * 1000 + count % 1000
    end
    if form then
        return wrk.format(nil, nil, nil, "cid=" .. cid .. "&count=" .. count)
    end
    return wrk.format(nil, "/", nil, string.format(stored, cid, cid, count, cid))
end

function done(summary, latency, requests)
    local e = summary.errors
    io.write(string.format("\nRESULT %d %d %d %d %d %d\n", summary.requests, summary.duration,
        e.connect + e.read + e.write + e.timeout, e.status, latency:percentile(50), latency:percentile(99)))
end
