/*
 * limiter.c: how many requests a user may send: a token bucket each.
 *
 * The table has a fixed size. Users whose salted hashes meet in one place displace each other, and
 * the newcomer begins with a full bucket: memory is bounded, nobody is ever charged for another,
 * and nobody can choose whom to meet.
 */
#include "limiter.h"

#include <openssl/rand.h>
#include <pthread.h>
#include <stdlib.h>

#define PLACES 65536

struct bucket
{
    uint64_t hash;
    uint64_t since; /* µs when `level` was true */
    uint64_t level; /* millionths of a request */
};

struct limiter
{
    pthread_mutex_t lock;
    uint64_t salt;
    uint64_t rate;  /* millionths of a request a µs: requests a second */
    uint64_t burst; /* millionths of a request */
    struct bucket buckets[PLACES];
};

#define ONE 1000000u

struct limiter *
limiter_create(int64_t rate, int64_t burst)
{
    struct limiter *limiter = calloc(1, sizeof(*limiter));

    if (limiter == NULL || RAND_bytes((unsigned char *)&limiter->salt, sizeof(limiter->salt)) != 1)
        abort();
    pthread_mutex_init(&limiter->lock, NULL);
    limiter->rate = (uint64_t)rate;
    limiter->burst = (uint64_t)burst * ONE;
    return limiter;
}

/* A salted hash, mixed well enough that its low bits may pick the place. */
static uint64_t
hash_user(const struct limiter *limiter, const char *user)
{
    uint64_t hash = limiter->salt;

    for (; *user != '\0'; user++)
    {
        hash = (hash ^ (unsigned char)*user) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 29;
    }
    return hash | 1; /* 0 marks a free place */
}

bool
limiter_take(struct limiter *limiter, const char *user, uint64_t now, int *wait)
{
    uint64_t hash = hash_user(limiter, user);
    struct bucket *bucket = &limiter->buckets[(hash >> 32) % PLACES];
    bool taken;

    pthread_mutex_lock(&limiter->lock);
    if (bucket->hash != hash)
        *bucket = (struct bucket){.hash = hash, .since = now, .level = limiter->burst};
    if (now > bucket->since)
    {
        uint64_t passed = now - bucket->since;
        uint64_t room = limiter->burst - bucket->level;

        /* In this order nothing overflows, however long the user was away. */
        bucket->level =
            passed > room / limiter->rate ? limiter->burst : bucket->level + passed * limiter->rate;
        bucket->since = now;
    }
    taken = bucket->level >= ONE;
    if (taken)
        bucket->level -= ONE;
    else
        *wait = (int)(((ONE - bucket->level) / limiter->rate + 999999) / 1000000);
    pthread_mutex_unlock(&limiter->lock);
    if (!taken && *wait < 1)
        *wait = 1;
    return taken;
}

void
limiter_free(struct limiter *limiter)
{
    if (limiter == NULL)
        return;
    pthread_mutex_destroy(&limiter->lock);
    free(limiter);
}
