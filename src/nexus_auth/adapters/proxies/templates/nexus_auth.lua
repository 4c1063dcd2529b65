-- Asks the auth service about the client's certificate. Goes with haproxy.cfg.
--
-- Sets txn.nexus_auth_hotkey when the caller is let in, txn.nexus_auth_reason when it is denied,
-- and neither when there was no usable answer.

local TIMEOUT_MILLISECONDS = 5000
-- How much of the client's target the auth service gets to know.
local MOST_OF_TARGET = 2048

-- What a grant tells beside the hotkey, where the auth service is asked to.
local FACTS = { "uid", "validator", "stake" }

-- Grants, by the policy and the whole certificate, for as long as the auth service allows (X-Accel-Expires).
local MOST_GRANTS = 4096
local grants, number_of_grants = {}, 0

local function only(response, name)
    local values = response.headers and response.headers[name]
    if values == nil then
        return nil
    end
    local found
    for _, value in pairs(values) do
        if found ~= nil then
            return nil
        end
        found = value
    end
    return found
end

local function admit(txn, grant)
    txn:set_var("txn.nexus_auth_hotkey", grant.hotkey)
    for _, fact in ipairs(FACTS) do
        if grant[fact] ~= nil then
            txn:set_var("txn.nexus_auth_" .. fact, grant[fact])
        end
    end
end

local function remember(key, grant, seconds)
    if seconds == nil or seconds <= 0 then
        return
    end
    if grants[key] == nil then
        if number_of_grants >= MOST_GRANTS then
            grants, number_of_grants = {}, 0
        end
        number_of_grants = number_of_grants + 1
    end
    grant.ends = core.now().sec + seconds
    grants[key] = grant
end

-- Where the auth service is now; nil where its name is not known. HAProxy's own client would look
-- up the Host header wherever it is given no address, so it always gets one.
local function address(txn)
    local server = core.backends["nexus_auth_service"].servers["auth"]
    -- A worker that is being replaced counts none of its servers; then the server's state tells.
    if txn.f:nbsrv("nexus_auth_service") ~= 1 and server:get_stats()["status"] ~= "no check" then
        return nil
    end
    local found = server:get_addr()
    if found:sub(1, 1) == "/" then
        return "unix@" .. found
    end
    local host, port = found:match("^([%x.:]+):(%d+)$")
    if host == nil or host == "0.0.0.0" or host == "::" then
        return nil
    end
    return (host:find(":", 1, true) and "ipv6@" or "ipv4@") .. host .. ":" .. port
end

-- A client's own words, fit for the value of a header.
local function escaped(text)
    local escape = function(byte) return ("%%%02X"):format(byte:byte()) end
    return ((text or ""):sub(1, MOST_OF_TARGET):gsub("[^\33-\126]", escape))
end

local function nexus_auth(txn)
    local headers = {
        -- No name server knows a name that ends so (RFC 6761).
        ["host"] = { "nexus-auth.invalid" },
        ["x-original-method"] = { escaped(txn.f:method()) },
        ["x-original-uri"] = { escaped(txn.f:pathq()) },
    }
    -- Chosen in haproxy.cfg. A name has no zero byte in it, so that no two keys are the same.
    local policy = txn:get_var("txn.nexus_auth_policy")
    if policy ~= nil then
        headers["x-nexus-auth-policy"] = { policy }
    end
    local der = txn.sf:ssl_c_der()
    local key = (policy or "") .. "\0" .. (der or "")
    if der ~= nil and #der > 0 then
        local grant = grants[key]
        if grant ~= nil and core.now().sec < grant.ends then
            admit(txn, grant)
            return
        end
        local encoded = txn.c:base64(der)
        if encoded == nil or #encoded == 0 then
            -- Longer than a buffer holds.
            txn:set_var("txn.nexus_auth_reason", "malformed-certificate")
            return
        end
        headers["x-client-cert"] = { encoded }
    end
    local service = address(txn)
    if service == nil then
        return
    end
    local response = core.httpclient():get({
        url = "http://nexus-auth.invalid/",
        dst = service,
        headers = headers,
        timeout = TIMEOUT_MILLISECONDS,
    })
    if response == nil then
        return
    end
    if response.status == 200 then
        local hotkey = only(response, "x-hotkey")
        if der ~= nil and hotkey ~= nil then
            local grant = { hotkey = hotkey }
            for _, fact in ipairs(FACTS) do
                grant[fact] = only(response, "x-hotkey-" .. fact)
            end
            admit(txn, grant)
            remember(key, grant, tonumber(only(response, "x-accel-expires") or ""))
        end
    elseif response.status == 403 then
        txn:set_var("txn.nexus_auth_reason", only(response, "x-nexus-auth-reason") or "denied")
    end
end

core.register_action("nexus_auth", { "http-req" }, nexus_auth, 0)
