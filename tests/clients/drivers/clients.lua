-- luasocket: CLIENT OPERATION URL FILE; prints one line of JSON (README.md of tests/clients).
local http = require("socket.http")
local ltn12 = require("ltn12")
local _, operation, url, file = unpack(arg)

local function quoted(text)
  local safe = text:gsub('[^%w %p]', ' '):gsub('["\\]', '\\%0')
  return '"' .. safe .. '"'
end

local said = {}
local request = { url = url }
if operation == "get" then
  request.sink = ltn12.sink.file(io.open(file, "wb"))
else
  local source = assert(io.open(file, "rb"))
  request.method = "PUT"
  request.source = ltn12.source.file(source)
  request.sink = ltn12.sink.table(said)
  if operation == "put" then -- else it is sent as chunks
    request.headers = { ["content-length"] = source:seek("end") }
    source:seek("set")
  end
end
local done, status = http.request(request)
if done and type(status) == "number" then
  print(('{"status": %d, "said": %s}'):format(status, quoted(table.concat(said))))
else
  print(('{"status": null, "said": %s}'):format(quoted(tostring(status))))
end
