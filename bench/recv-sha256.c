/* The least that a verified download into memory can be: HTTP by hand; one thread receives into a few buffers that stay
 * in the cache and writes them to a memfd, another hashes them with the processor's own instructions. (Receiving into
 * mapped pages of the memfd costs a fault and a clearing of each page, which is slower.) No retry, no second thought.
 * Usage: recv-sha256 ADDRESS PORT PATH. Prints bytes, wall and processor time in nanoseconds, and the digest. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD = 1 << 16, BUFFER = 1 << 18, BUFFERS = 4 };

/* The bytes from a multiple of 64 on that follow those of the buffer before. */
static uint8_t buffers[BUFFERS][BUFFER] __attribute__((aligned(4096)));
static size_t filled[BUFFERS];
static size_t size, received, hashed; /* the latter two count buffers */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER, room = PTHREAD_COND_INITIALIZER;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static const uint32_t K[64] __attribute__((aligned(16))) = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

__attribute__((target("sha,sse4.1"))) static void blocks(uint32_t state[8], const uint8_t *data, size_t count) {
    const __m128i swap = _mm_set_epi64x(0x0c0d0e0f08090a0bULL, 0x0405060700010203ULL);
    __m128i dcba = _mm_loadu_si128((const __m128i *)state), hgfe = _mm_loadu_si128((const __m128i *)(state + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
    for (; count; count--, data += 64) {
        const __m128i before_abef = abef, before_cdgh = cdgh;
        __m128i w[4];
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) {
            if (i < 4) {
                w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)data + i), swap);
            } else {
                __m128i last = w[(i + 3) & 3];
                __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]),
                                            _mm_alignr_epi8(last, w[(i + 2) & 3], 4));
                w[i & 3] = _mm_sha256msg2_epu32(sum, last);
            }
            __m128i words = _mm_add_epi32(w[i & 3], _mm_load_si128((const __m128i *)K + i));
            cdgh = _mm_sha256rnds2_epu32(cdgh, abef, words);
            abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(words, 0x0e));
        }
        abef = _mm_add_epi32(abef, before_abef);
        cdgh = _mm_add_epi32(cdgh, before_cdgh);
    }
    __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

/* Hashes what has been received, as it comes; the digest is its result. Only the last buffer is not full. */
static void *hash(void *digest) {
    uint32_t *state = digest;
    const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                               0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(state, start, sizeof start);
    for (size_t done = 0;;) {
        pthread_mutex_lock(&lock);
        while (received == hashed)
            pthread_cond_wait(&more, &lock);
        pthread_mutex_unlock(&lock);
        const uint8_t *data = buffers[hashed % BUFFERS];
        size_t count = filled[hashed % BUFFERS], left = count % 64, end = left < 56 ? 64 : 128;
        blocks(state, data, count / 64);
        done += count;
        if (done == size) {
            uint8_t tail[128] = {0};
            memcpy(tail, data + count - left, left);
            tail[left] = 0x80;
            for (int i = 0; i < 8; i++)
                tail[end - 1 - i] = (uint8_t)((uint64_t)size * 8 >> 8 * i);
            blocks(state, tail, end / 64);
            return NULL;
        }
        pthread_mutex_lock(&lock);
        hashed++;
        pthread_cond_signal(&room);
        pthread_mutex_unlock(&lock);
    }
}

static uint64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

int main(int argc, char **argv) {
    if (argc != 4 || !__builtin_cpu_supports("sse4.1"))
        return fprintf(stderr, "usage: recv-sha256 ADDRESS PORT PATH, on a processor with SHA instructions\n"), 2;
    uint64_t start = now();
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    int socket_fd = socket(AF_INET, SOCK_STREAM, 0);
    if (!inet_aton(argv[1], &to.sin_addr) || connect(socket_fd, (struct sockaddr *)&to, sizeof to))
        die("connect");
    if (dprintf(socket_fd, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", argv[3], argv[1]) < 0)
        die("send");
    static char head[HEAD];
    size_t got = 0;
    char *body = NULL, *length = NULL;
    while (!body) {
        ssize_t count = recv(socket_fd, head + got, sizeof head - 1 - got, 0);
        if (count <= 0)
            die("head");
        got += (size_t)count;
        body = strstr(head, "\r\n\r\n");
    }
    length = strcasestr(head, "\r\nContent-Length:");
    if (strncmp(head + 8, " 200 ", 5) || !length || length > body)
        return fprintf(stderr, "no answer of use\n"), 1;
    size = strtoull(length + 17, NULL, 10);
    body += 4;
    size_t here = got - (size_t)(body - head);
    int memory = memfd_create("image", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (memory < 0 || !size || here > size || ftruncate(memory, (off_t)((size + 4095) / 4096 * 4096)))
        die("memfd");
    memcpy(buffers[0], body, here);
    pthread_t hasher;
    static uint32_t digest[8];
    if (pthread_create(&hasher, NULL, hash, digest))
        die("thread");
    for (size_t done = 0; done < size; here = 0) {
        uint8_t *buffer = buffers[received % BUFFERS];
        size_t wanted = size - done < BUFFER ? size - done : BUFFER;
        while (here < wanted) {
            ssize_t count = recv(socket_fd, buffer + here, wanted - here, 0);
            if (count <= 0)
                die("recv");
            here += (size_t)count;
        }
        if (pwrite(memory, buffer, wanted, (off_t)done) != (ssize_t)wanted)
            die("pwrite");
        done += wanted;
        pthread_mutex_lock(&lock);
        filled[received++ % BUFFERS] = wanted;
        pthread_cond_signal(&more);
        while (received - hashed == BUFFERS)
            pthread_cond_wait(&room, &lock);
        pthread_mutex_unlock(&lock);
    }
    pthread_join(hasher, NULL);
    uint64_t took = now() - start;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    uint64_t used = (uint64_t)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1000000000 +
                    (uint64_t)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1000;
    printf("%zu %lu %lu ", size, took, used);
    for (int i = 0; i < 8; i++)
        printf("%08x", digest[i]);
    printf("\n");
    return 0;
}
