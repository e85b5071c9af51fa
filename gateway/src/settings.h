/*
 * settings.h: every setting of the gateway, in one table without an include guard.
 *
 * Whoever includes it defines what an entry is: TEXT(name, default, when, meaning),
 * INTEGER(name, default, least, most, unit, when, meaning), BOOLEAN(name, default, when, meaning).
 * A default is as it would stand in the environment; NULL: not set. `when` is RELOAD where SIGHUP
 * brings another value into force, RESTART where it takes a restart.
 */
/* clang-format off */
TEXT(listen, "127.0.0.1:8080", RESTART,
    "Address and port. Port 0 takes a free one; `[::1]:8080` for IPv6; `unix:/path` for a socket"
    " file.")
BOOLEAN(reuse_port, "false", RESTART,
    "Whether other gateways may listen on the same port: the kernel spreads clients over them, "
    "so all must have the same keys and database.")
TEXT(tls_certificate, NULL, RELOAD,
    "PEM file with the certificate chain for HTTPS.")
TEXT(tls_key, NULL, RELOAD,
    "PEM file with its private key, which has no pass phrase.")
BOOLEAN(http2, "false", RESTART,
    "Whether HTTP/2 is offered to TLS clients; see HTTP/2 below.")
INTEGER(http2_resets, "100", 1, 1000000, "requests", RELOAD,
    "Requests that one HTTP/2 connection may take back within ten seconds; more, and it is cut.")
TEXT(database_url, NULL, RESTART,
    "libpq connection string or URI of the database. Required.")
TEXT(replica_url, NULL, RESTART,
    "libpq connection string or URI of a hot standby for downloads and snapshots.")
TEXT(jwt_secret, NULL, RELOAD,
    "Secret of HS256, HS384, HS512 tokens: at least 32, 48, 64 bytes.")
TEXT(jwks_file, NULL, RELOAD,
    "File with a JWK Set (RFC 7517).")
TEXT(jwt_issuer, NULL, RELOAD,
    "What a token's `iss` must be.")
TEXT(jwt_audience, NULL, RELOAD,
    "What a token's `aud` must be or contain.")
TEXT(role_claim, NULL, RELOAD,
    "Claim that names the PostgreSQL role for the request, such as `role`. Not set: all requests "
    "run as the role of database_url.")
TEXT(roles, NULL, RELOAD,
    "Roles that role_claim may name, by commas. Not set: every role that the one of database_url "
    "may become.")
INTEGER(jwt_leeway, "60", 0, 3600, "s", RELOAD,
    "Clock difference allowed for `exp` and `nbf`.")
INTEGER(token_cache, "4096", 0, 1048576, "tokens", RESTART,
    "Verified tokens remembered by each loop; 0: none. Never beyond their `exp`.")
INTEGER(loops, "0", 0, 256, "threads", RESTART,
    "Event loops; 0: one for each CPU.")
INTEGER(pool_size, "8", 1, 1000, "connections", RESTART,
    "Database connections of each loop.")
INTEGER(stream_pool_size, "4", 1, 1000, "connections", RESTART,
    "Database connections of each loop for snapshots, beside those of pool_size. One user may "
    "have half of them.")
INTEGER(stream_timeout, "600000", 1000, 86400000, "ms", RESTART,
    "Longest snapshot; it holds a connection and an old view of the database.")
INTEGER(watch_interval, "100", 10, 60000, "ms", RESTART,
    "Time between looks at the heads of watched scopes.")
INTEGER(watch_limit, "100", 1, 1000000, "streams", RELOAD,
    "Event streams of each loop that one user may hold, then 429.")
INTEGER(queue_length, "256", 0, 1000000, "requests", RESTART,
    "Requests of each loop that may wait for a connection; more are refused with 503.")
INTEGER(queue_timeout, "5000", 1, 600000, "ms", RESTART,
    "Longest wait for a connection, then 503.")
INTEGER(connect_timeout, "5000", 100, 600000, "ms", RESTART,
    "Longest time to establish a database connection.")
INTEGER(statement_timeout, "30000", 10, 3600000, "ms", RESTART,
    "Longest run of a request's statement in the database, then 503.")
INTEGER(recycle_size, "4194304", 65536, 1073741824, "bytes", RESTART,
    "A connection that carried a larger request or answer is renewed: libpq never gives buffers "
    "back.")
INTEGER(body_limit, "16777216", 1024, 1073741824, "bytes", RESTART,
    "Largest request body, then 413.")
INTEGER(unpacked_limit, "16777216", 1024, 1073741824, "bytes", RELOAD,
    "Largest request body once gzip is undone, then 413.")
INTEGER(header_limit, "16384", 1024, 262144, "bytes", RESTART,
    "Largest request head, then 431.")
INTEGER(header_timeout, "10000", 100, 600000, "ms", RELOAD,
    "Longest time to send a request head.")
INTEGER(body_timeout, "60000", 100, 3600000, "ms", RELOAD,
    "Longest time to send a request body.")
INTEGER(idle_timeout, "75000", 100, 3600000, "ms", RELOAD,
    "How long a kept-alive connection may wait for its next request.")
INTEGER(send_timeout, "30000", 100, 3600000, "ms", RELOAD,
    "A reader that takes less than send_rate of its answer over so long a time is cut.")
INTEGER(send_rate, "1024", 0, 1000000000, "bytes/s", RELOAD,
    "The least speed of a reader over send_timeout; 0: any byte will do.")
INTEGER(memory_limit, "1073741824", 1048576, 1099511627776, "bytes", RESTART,
    "Bodies and answers that the process may hold in memory; beyond it requests get 503.")
INTEGER(max_connections, "16384", 1, 1000000, "connections", RESTART,
    "Client connections of the process; more wait in the kernel's queue.")
INTEGER(drain_timeout, "30000", 0, 3600000, "ms", RELOAD,
    "After SIGTERM, how long requests in flight may take to end.")
INTEGER(rate_limit, "0", 0, 1000000, "requests/s", RESTART,
    "Requests a second that one user may send, then 429; 0: any number.")
INTEGER(rate_burst, "100", 1, 1000000, "requests", RESTART,
    "Requests that one user may send at once within rate_limit.")
TEXT(cors_origins, NULL, RELOAD,
    "Origins whose pages may use the gateway, by commas: `https://app.example`; `*`: all.")
INTEGER(gzip_level, "1", 0, 9, "level", RESTART,
    "Compression of answers; 0: none.")
BOOLEAN(metrics, "true", RELOAD,
    "Whether there is /metrics. It asks for no token.")
BOOLEAN(pgbouncer, "false", RESTART,
    "No named statements: for PgBouncer in transaction mode in front of the database.")
TEXT(log_level, "info", RELOAD,
    "`debug`, `info`, `warning`, `error` or `off`.")
