-- Uploads of one new row each; the environment has the token and where numbers begin.
local number = tonumber(os.getenv("FIRST"))
local headers = {["Authorization"] = "Bearer " .. os.getenv("TOKEN"),
                 ["Content-Type"] = "application/json"}
local form = '{"last_server_seq_seen":0,"changes":[{"source_change_id":%d,"schema":"business",' ..
    '"table":"users","op":"INSERT","pk":"%s","server_version":0,"payload":{"id":"%s",' ..
    '"name":"Ann","email":"%d@bench.example","created_at":1,"updated_at":1}}]}'

function request()
    number = number + 1
    local key = string.format("00000000-0000-4000-8000-%012d", number)
    return wrk.format("POST", "/sync/upload", headers, string.format(form, number, key, key, number))
end
