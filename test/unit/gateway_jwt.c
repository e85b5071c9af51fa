/*
 * gateway_jwt.c: tokens: every algorithm with its key, and every reason to refuse.
 */
#include "auth.h"
#include "gateway_tap.h"

#include <jose/b64.h>
#include <jose/jwk.h>
#include <jose/jws.h>
#include <stdlib.h>

#define SECRET "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define NOW 1000000

static struct problem problem;
static char error[512];

/* Signs claims (JSON text) with a key; `header` may add members. The caller frees. */
static char *
sign(const char *claims, const char *algorithm, json_t *key, json_t *header)
{
    json_t *protected = json_pack("{s:s}", "alg", algorithm);
    json_t *jws = json_pack("{s:o}", "payload", jose_b64_enc(claims, strlen(claims)));
    json_t *signature;
    char *token = NULL;

    if (header != NULL)
        json_object_update(protected, header);
    signature = json_pack("{s:o}", "protected", protected);
    if (jose_jws_sig(NULL, jws, signature, key) &&
        asprintf(&token, "%s.%s.%s", json_string_value(json_object_get(jws, "protected")),
                 json_string_value(json_object_get(jws, "payload")),
                 json_string_value(json_object_get(jws, "signature"))) < 0)
        abort();
    json_decref(signature);
    json_decref(jws);
    json_decref(header);
    return token;
}

/* A token without a signature, from two JSON texts. */
static char *
unsigned_token(const char *header, const char *claims, const char *signature)
{
    json_t *first = jose_b64_enc(header, strlen(header));
    json_t *second = jose_b64_enc(claims, strlen(claims));
    char *token;

    if (asprintf(&token, "%s.%s.%s", json_string_value(first), json_string_value(second),
                 signature) < 0)
        abort();
    json_decref(first);
    json_decref(second);
    return token;
}

/* A new key, private part and all. */
static json_t *
generate(const char *algorithm, const char *id)
{
    json_t *key = json_pack("{s:s}", "alg", algorithm);

    if (!jose_jwk_gen(NULL, key))
        abort();
    json_object_del(key, "key_ops");
    if (id != NULL)
        json_object_set_new(key, "kid", json_string(id));
    return key;
}

/* The text of a JWK Set with the public parts of keys. Steals nothing; the caller frees. */
static char *
public_set(json_t *const *keys, size_t count)
{
    json_t *list = json_array();
    json_t *set = json_pack("{s:o}", "keys", list);
    char *text;

    for (size_t i = 0; i < count; i++)
    {
        json_t *key = json_deep_copy(keys[i]);

        if (json_object_get(key, "k") == NULL && !jose_jwk_pub(NULL, key))
            abort();
        json_object_del(key, "key_ops");
        json_array_append_new(list, key);
    }
    text = json_dumps(set, 0);
    json_decref(set);
    return text;
}

static json_t *
secret_key(const char *secret)
{
    return json_pack("{s:s, s:o}", "kty", "oct", "k", jose_b64_enc(secret, strlen(secret)));
}

/* Verifies with no rules but a minute of leeway; frees the token. Returns the code, or "". */
static const char *
verdict(const struct jwt_keys *keys, char *token)
{
    const struct jwt_rules rules = {.leeway = 60};
    struct jwt_claims *claims = jwt_verify(keys, &rules, token, strlen(token), NOW, &problem);

    free(token);
    if (claims == NULL)
        return problem_name(problem.code);
    jwt_claims_release(claims);
    return "";
}

static void
test_algorithms(void)
{
    static const char *const names[] = {"HS256", "HS384", "HS512", "RS256", "RS384", "RS512",
                                        "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"};
    enum
    {
        COUNT = sizeof(names) / sizeof(names[0])
    };
    static const char claims[] = "{\"sub\":\"ann\",\"exp\":1000100}";
    json_t *generated[COUNT];
    struct jwt_keys *keys;
    char *set;

    for (size_t i = 0; i < COUNT; i++)
        generated[i] = generate(names[i], names[i]);
    set = public_set(generated, COUNT);
    keys = jwt_keys_create(NULL, set, strlen(set), error, sizeof(error));
    for (size_t i = 0; i < COUNT; i++)
    {
        char *token = sign(claims, names[i], generated[i], json_pack("{s:s}", "kid", names[i]));
        size_t middle = strlen(token) - 20;

        is(verdict(keys, strdup(token)), "", names[i]);
        token[middle] = token[middle] == 'A' ? 'B' : 'A';
        is(verdict(keys, token), "invalid_signature", "the same with another signature");
    }
    is(verdict(keys, sign(claims, "ES256", generated[9], NULL)), "",
       "without kid every key that fits is tried");
    is(verdict(keys, sign(claims, "ES256", generated[9], json_pack("{s:s}", "kid", "other"))),
       "unknown_key", "a kid that no key has");
    is(verdict(keys, sign(claims, "ES256", generated[9], json_pack("{s:s}", "kid", "RS256"))),
       "unknown_key", "a kid whose key is of another kind");
    jwt_keys_release(keys);
    free(set);
    for (size_t i = 0; i < COUNT; i++)
        json_decref(generated[i]);
}

/* The public RSA key, as every attacker has it, used as an HMAC secret. */
static void
test_confusion(void)
{
    json_t *rsa = generate("RS256", NULL);
    json_t *fake;
    struct jwt_keys *keys;
    char *set;
    char *secret;

    set = public_set(&rsa, 1);
    keys = jwt_keys_create(NULL, set, strlen(set), error, sizeof(error));
    secret = strdup(json_string_value(json_object_get(rsa, "n")));
    fake = secret_key(secret);
    is(verdict(keys, sign("{\"sub\":\"ann\",\"exp\":1000100}", "HS256", fake, NULL)), "unknown_key",
       "HMAC with a public key");
    json_decref(fake);
    json_decref(rsa);
    jwt_keys_release(keys);
    free(set);
    free(secret);
}

static void
test_claims(void)
{
    static const struct
    {
        const char *claims;
        const char *verdict;
        const char *name;
    } cases[] = {
        {"{\"sub\":\"ann\",\"did\":\"d\",\"exp\":1000100}", "", "a good token"},
        {"{\"sub\":\"ann\",\"exp\":1000100.5}", "", "a fraction of a second"},
        {"{\"sub\":\"ann\",\"exp\":999941}", "", "within the leeway"},
        {"{\"sub\":\"ann\",\"exp\":999940}", "expired_token", "expired beyond it"},
        {"{\"sub\":\"ann\",\"exp\":-1}", "expired_token", "a negative time"},
        {"{\"sub\":\"ann\",\"exp\":9223372036854775807}", "", "the end of time"},
        {"{\"sub\":\"ann\",\"exp\":1e300}", "", "beyond the end of time"},
        {"{\"sub\":\"ann\",\"exp\":\"1000100\"}", "invalid_claim", "a time that is a string"},
        {"{\"sub\":\"ann\",\"exp\":null}", "invalid_claim", "a time that is null"},
        {"{\"sub\":\"ann\"}", "missing_claim", "no exp"},
        {"{\"exp\":1000100}", "missing_claim", "no sub"},
        {"{\"sub\":\"\",\"exp\":1000100}", "invalid_claim", "an empty sub"},
        {"{\"sub\":7,\"exp\":1000100}", "invalid_claim", "a sub that is a number"},
        {"{\"sub\":\"ann\",\"did\":7,\"exp\":1000100}", "invalid_claim", "a did that is a number"},
        {"{\"sub\":\"a\\u0000n\",\"exp\":1000100}", "malformed_token", "a NUL in sub"},
        {"{\"sub\":\"ann\",\"sub\":\"bob\",\"exp\":1000100}", "malformed_token", "a claim twice"},
        {"{\"sub\":\"ann\",\"exp\":1000100,\"nbf\":1000060}", "", "nbf within the leeway"},
        {"{\"sub\":\"ann\",\"exp\":1000100,\"nbf\":1000061}", "premature_token", "nbf beyond it"},
        {"{\"sub\":\"ann\",\"exp\":1000100,\"nbf\":\"x\"}", "invalid_claim",
         "nbf of the wrong type"},
        {"[]", "malformed_token", "claims that are an array"},
        {"{", "malformed_token", "claims that are no JSON"},
    };
    json_t *key = secret_key(SECRET);
    struct jwt_keys *keys = jwt_keys_create(SECRET, NULL, 0, error, sizeof(error));

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        is(verdict(keys, sign(cases[i].claims, "HS256", key, NULL)), cases[i].verdict,
           cases[i].name);
    json_decref(key);
    jwt_keys_release(keys);
}

/* Claims, and what becomes of them. */
struct claims_case
{
    const char *claims;
    const char *verdict;
    const char *name;
};

static void
test_cases(const struct jwt_rules *rules, const struct claims_case *cases, size_t count)
{
    json_t *key = secret_key(SECRET);
    struct jwt_keys *keys = jwt_keys_create(SECRET, NULL, 0, error, sizeof(error));

    for (size_t i = 0; i < count; i++)
    {
        char *token = sign(cases[i].claims, "HS256", key, NULL);
        struct jwt_claims *claims = jwt_verify(keys, rules, token, strlen(token), NOW, &problem);

        is(claims == NULL ? problem_name(problem.code) : "", cases[i].verdict, cases[i].name);
        jwt_claims_release(claims);
        free(token);
    }
    json_decref(key);
    jwt_keys_release(keys);
}

static void
test_origin(void)
{
    static const struct claims_case cases[] = {
        {"{\"sub\":\"a\",\"exp\":1000100,\"iss\":\"me\",\"aud\":\"you\"}", "", "both fit"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"iss\":\"me\",\"aud\":[\"x\",\"you\"]}", "",
         "one of several audiences"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"iss\":\"he\",\"aud\":\"you\"}", "wrong_issuer",
         "another issuer"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"aud\":\"you\"}", "wrong_issuer", "no issuer"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"iss\":\"me\",\"aud\":[\"x\"]}", "wrong_audience",
         "other audiences"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"iss\":\"me\"}", "wrong_audience", "no audience"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"iss\":\"me\",\"aud\":{\"you\":1}}", "wrong_audience",
         "an audience of the wrong type"},
    };
    const struct jwt_rules rules = {.issuer = "me", .audience = "you", .leeway = 60};

    test_cases(&rules, cases, sizeof(cases) / sizeof(cases[0]));
}

static void
test_role(void)
{
    static const struct claims_case cases[] = {
        {"{\"sub\":\"a\",\"exp\":1000100,\"r\":\"one\"}", "", "the first role of the list"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"r\":\"two\"}", "", "the last role of the list"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"r\":\"tw\"}", "role_forbidden", "part of a role"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"r\":\"one,two\"}", "role_forbidden", "the list itself"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"r\":\"none\"}", "role_forbidden",
         "none, though it is listed"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"r\":[\"one\"]}", "invalid_claim", "an array of roles"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"r\":null}", "invalid_claim", "a role that is null"},
        {"{\"sub\":\"a\",\"exp\":1000100,\"role\":\"one\"}", "missing_claim",
         "the role in another claim"},
    };
    const struct jwt_rules rules = {.role = "r", .roles = "one,none,two"};

    test_cases(&rules, cases, sizeof(cases) / sizeof(cases[0]));
}

static void
test_forms(void)
{
    static const char claims[] = "{\"sub\":\"ann\",\"exp\":1000100}";
    static char large[TOKEN_MAX + 2];
    json_t *key = secret_key(SECRET);
    json_t *other = secret_key("another secret that is as long as it has to be, and then some....");
    struct jwt_keys *keys = jwt_keys_create(SECRET, NULL, 0, error, sizeof(error));

    is(verdict(keys, strdup("")), "malformed_token", "nothing");
    is(verdict(keys, strdup("..")), "malformed_token", "two dots");
    is(verdict(keys, strdup("a.b")), "malformed_token", "one dot");
    is(verdict(keys, strdup("a.b.c.d")), "malformed_token", "three dots");
    is(verdict(keys, strdup("!!!.b.c")), "malformed_token", "a header that is no base64url");
    memset(large, 'a', sizeof(large) - 1);
    is(verdict(keys, strdup(large)), "malformed_token", "a token longer than is looked at");
    is(verdict(keys, unsigned_token("{\"alg\":\"none\"}", claims, "")), "unsupported_algorithm",
       "alg none");
    is(verdict(keys, unsigned_token("{\"alg\":\"NONE\"}", claims, "AAAA")), "unsupported_algorithm",
       "alg NONE");
    is(verdict(keys, unsigned_token("{\"alg\":\"HS256\"}", claims, "")), "invalid_signature",
       "no signature");
    is(verdict(keys, unsigned_token("{\"alg\":[\"HS256\"]}", claims, "AA")),
       "unsupported_algorithm", "alg that is an array");
    is(verdict(keys, unsigned_token("{}", claims, "AA")), "unsupported_algorithm", "no alg");
    is(verdict(keys, unsigned_token("[]", claims, "AA")), "malformed_token",
       "a header that is an array");
    is(verdict(keys, unsigned_token("{\"alg\":\"HS256\",\"crit\":[\"b64\"],\"b64\":false}", claims,
                                    "AA")),
       "malformed_token", "a critical extension");
    is(verdict(keys, unsigned_token("{\"alg\":\"HS256\",\"alg\":\"none\"}", claims, "AA")),
       "malformed_token", "two algorithms");
    is(verdict(keys, sign(claims, "HS256", other, NULL)), "invalid_signature", "another secret");
    json_decref(other);
    json_decref(key);
    jwt_keys_release(keys);
}

/* A set that must be refused, with this message. */
static void
refuses_keys(const char *secret, const char *set, const char *message, const char *name)
{
    struct jwt_keys *keys =
        jwt_keys_create(secret, set, set == NULL ? 0 : strlen(set), error, sizeof(error));

    if (keys != NULL)
    {
        jwt_keys_release(keys);
        ok(false, name);
        return;
    }
    is(error, message, name);
}

static void
test_keys(void)
{
    refuses_keys(NULL, "{", "line 1, column 1: string or '}' expected near end of file",
                 "a set that is no JSON");
    refuses_keys(NULL, "{}", "no JWK Set: a JSON object with an array \"keys\" is needed",
                 "no array of keys");
    refuses_keys(NULL, "{\"keys\":[]}", "no key that could verify a signature", "no key");
    refuses_keys(NULL, "{\"keys\":[7]}", "key 1 is no JSON object", "a key that is a number");
    refuses_keys(NULL, "{\"keys\":[{}]}", "key 1 has no \"kty\"", "a key without kind");
    refuses_keys(NULL, "{\"keys\":[{\"kty\":\"oct\",\"k\":\"AAAA\"}]}",
                 "no key that could verify a signature: key 1 is too short or too long",
                 "a short secret");
    refuses_keys(
        NULL, "{\"keys\":[{\"kty\":\"EC\",\"crv\":\"P-192\"}]}",
        "no key that could verify a signature: key 1 is of a kind that no algorithm here uses",
        "a curve of no use");
    refuses_keys(NULL, "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AAAA\",\"e\":\"AQAB\"}]}",
                 "no key that could verify a signature: key 1 is broken", "a short RSA key");
    refuses_keys(NULL, "{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AAAA\",\"d\":\"AQAB\"}]}",
                 "key 1 has a private part (\"d\"): the gateway needs, and should hold, only the "
                 "public one",
                 "a private key");
    refuses_keys(NULL, "{\"keys\":[{\"kty\":\"oct\",\"use\":\"enc\"}]}",
                 "no key that could verify a signature", "a key for encryption only");
}

/* The public part of a key with one member changed, or taken away where the value is NULL. */
static json_t *
altered(const json_t *key, const char *name, const char *value)
{
    json_t *copy = json_deep_copy(key);

    if (!jose_jwk_pub(NULL, copy))
        abort();
    json_object_del(copy, "key_ops");
    json_object_del(copy, name);
    if (value != NULL)
        json_object_set_new(copy, name, json_string(value));
    return copy;
}

/* What is of no use is skipped, and the good key beside it is taken. */
static void
test_skipped(void)
{
    json_t *good = generate("ES256", NULL);
    json_t *rsa = generate("RS256", NULL);
    json_t *set = json_pack("{s:[o,o,o,o,o,o,{s:s,s:s},{s:s,s:s},o]}", "keys",
                            altered(rsa, "e", "AQ"), altered(rsa, "e", NULL),
                            altered(good, "y", json_string_value(json_object_get(good, "x"))),
                            altered(good, "x", NULL), altered(good, "crv", "secp256k1"),
                            altered(rsa, "alg", "RSA-OAEP"), "kty", "OKP", "crv", "Ed25519", "kty",
                            "oct", "k", "AAAA", altered(good, "kid", "good"));
    char *text = json_dumps(set, 0);
    struct jwt_keys *keys = jwt_keys_create(NULL, text, strlen(text), error, sizeof(error));

    is(keys == NULL ? error : jwt_keys_skipped(keys),
       "key 1 is broken; key 2 is broken; key 3 is broken; key 4 is broken; "
       "key 5 is of a kind that no algorithm here uses; "
       "key 6 is of a kind that no algorithm here uses; "
       "key 7 is of a kind that no algorithm here uses; key 8 is too short or too long",
       "keys of no use are skipped, and said to be");
    if (keys != NULL)
    {
        is(verdict(keys, sign("{\"sub\":\"ann\",\"exp\":1000100}", "ES256", good, NULL)), "",
           "the key beside them is good");
        jwt_keys_release(keys);
    }
    free(text);
    json_decref(set);
    json_decref(good);
    json_decref(rsa);
}

/* The cache must not change any verdict, and never outlive a token. */
static void
test_cache(void)
{
    const struct config config = {.jwt_leeway = 60, .token_cache = 4};
    json_t *key = secret_key(SECRET);
    struct jwt_keys *keys = jwt_keys_create(SECRET, NULL, 0, error, sizeof(error));
    struct jwt_keys *others = jwt_keys_create("another secret of more than thirty-two bytes", NULL,
                                              0, error, sizeof(error));
    struct auth *auth = auth_create(&config, keys);
    bool all_good = true;
    char header[1024];

    for (int i = 0; i < 100; i++)
    {
        char *claims;
        char *token;
        struct jwt_claims *found;

        if (asprintf(&claims, "{\"sub\":\"user %d\",\"exp\":1000100}", i % 7) < 0)
            abort();
        token = sign(claims, "HS256", key, NULL);
        snprintf(header, sizeof(header), "%s %s", i % 2 ? "Bearer" : "bEARER", token);
        found = auth_check(auth, header, strlen(header), NOW, &problem);
        all_good = all_good && found != NULL && strcmp(found->json, claims) == 0;
        jwt_claims_release(found);
        free(token);
        free(claims);
    }
    ok(all_good, "more tokens than the cache holds, again and again");
    ok(auth_check(auth, header, strlen(header), 1000160, &problem) == NULL &&
           problem.code == PROBLEM_EXPIRED_TOKEN,
       "a token in the cache expires with its exp");
    auth_set_keys(auth, others);
    ok(auth_check(auth, header, strlen(header), NOW, &problem) == NULL &&
           problem.code == PROBLEM_INVALID_SIGNATURE,
       "new keys empty the cache");
    ok(auth_check(auth, "Basic eDp5", 10, NOW, &problem) == NULL &&
           problem.code == PROBLEM_UNSUPPORTED_SCHEME,
       "another scheme");
    ok(auth_check(auth, "Bearer", 6, NOW, &problem) == NULL &&
           problem.code == PROBLEM_UNSUPPORTED_SCHEME,
       "a scheme and nothing else");
    auth_free(auth);
    jwt_keys_release(keys);
    jwt_keys_release(others);
    json_decref(key);
}

int
main(void)
{
    test_algorithms();
    test_confusion();
    test_claims();
    test_origin();
    test_role();
    test_forms();
    test_keys();
    test_skipped();
    test_cache();
    return done();
}
