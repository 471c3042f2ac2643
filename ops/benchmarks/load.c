/* A closed-loop HTTP/1.1 load client: one thread, epoll, connections kept alive, one request in flight on each.
 *
 *   load put|get|follow|delete|launch URL --connections N (--count N | --seconds S)
 *        [--size BYTES] [--first N] [--range N] [--random] [--fsync DIRECTORY] [--body JSON]
 *
 * URL is http://host:port/path; the number of the key is appended to it: …/add_key/bench-0, bench-1 and so on from
 * --first. get and follow take numbers below first + range, over and over in order or at random. The body of a number
 * is always the same; put sends it and get compares it, when --size is given. follow is one operation: a GET and the
 * request that its Location asks for. launch is a POST of --body ({} if not given) to URL as it is. --fsync is for a
 * server that does not fsync: after each put, before it counts, DIRECTORY/<last part of the path> is fsynced.
 *
 * Prints one line of JSON. Times are milliseconds from the first byte sent to the last byte received; percentiles are
 * exact, made of every operation. An operation that failed (any other status than 200, 201, 204; a lost connection; a
 * wrong body) is counted under "errors" and not in the rate. Exit status 1 when nothing succeeded or the server hung.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { NODES = 16, STATUSES = 600, STALL_SECS = 30, MOST_REFUSED = 200, URL_BYTES = 4096 };
/* Failures that have no status of their own are counted beside the statuses, in numbers that no status has. */
enum { LOST = 0, UNREADABLE = 1, WRONG_BODY = 2, REFUSED = 3, NOT_SYNCED = 4 };
static const char *const FAILURES[] = {"connection lost", "unreadable answer", "wrong body", "refused", "fsync failed"};

struct url {
    char host[256];
    char port[8];
    char path[URL_BYTES];
};

struct slot;

/* One TCP connection, to the master or to a node, and the answer being read from it. */
struct connection {
    struct slot *slot;
    int fd; /* -1: not connected */
    char host[256], port[8];
    char *buffer;
    size_t room, filled;
    size_t header; /* bytes of the answer's header; 0: not all of it is here */
    size_t body;
    int status;
    int close;  /* the server is going to close it */
    int dialled; /* it has been connected before */
};

/* One operation in flight, again and again. */
struct slot {
    struct connection first, nodes[NODES]; /* nodes: where Location led to */
    struct connection *current;
    long number;
    double started;
    char head[URL_BYTES + 512];
    struct iovec out[2]; /* what remains to be sent */
    int idle;
};

static enum { PUT, GET, FOLLOW, DELETE, LAUNCH } operation;
static struct url target;
static long first = 0, range = 0, count = 0, size = -1, issued = 0;
static int random_order = 0;
static double deadline = 0;
static const char *sync_directory = NULL;
static const char *json = "{}"; /* what launch posts */
static const char *token = ""; /* sent as Bearer to the first host */
static int poller;
static char *pattern; /* the body of any number but for its first 16 bytes */

static uint32_t *latencies; /* microseconds of every operation that succeeded */
static size_t done = 0, latencies_room = 0;
static long failures[STATUSES], reconnects = 0, bytes_in = 0, refused_in_a_row = 0;
static double last_progress;

static void die(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(2);
}

static void *enough(void *memory, size_t bytes) {
    memory = realloc(memory, bytes);
    if (!memory) die("out of memory");
    return memory;
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* http://host:port/path; returns 0 when it is no such URL. */
static int parse_url(const char *text, size_t length, struct url *url) {
    char copy[URL_BYTES];
    if (length >= sizeof copy) return 0;
    memcpy(copy, text, length);
    copy[length] = 0;
    strcpy(url->port, "80");
    strcpy(url->path, "/");
    if (sscanf(copy, "http://%255[^:/]:%7[0-9]%4095s", url->host, url->port, url->path) >= 2) return 1;
    return sscanf(copy, "http://%255[^:/]%4095s", url->host, url->path) >= 1;
}

static void hang_up(struct connection *connection) {
    if (connection->fd >= 0) close(connection->fd); /* which also takes it out of the epoll set */
    connection->fd = -1;
}

static int dial(struct connection *connection) {
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *found, *address;
    if (getaddrinfo(connection->host, connection->port, &hints, &found)) return 0;
    for (address = found; address && connection->fd < 0; address = address->ai_next) {
        connection->fd = socket(address->ai_family, SOCK_STREAM, 0);
        if (connection->fd >= 0 && connect(connection->fd, address->ai_addr, address->ai_addrlen)) hang_up(connection);
    }
    freeaddrinfo(found);
    if (connection->fd < 0) return 0;
    connection->dialled = 1;
    int one = 1;
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    fcntl(connection->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    return epoll_ctl(poller, EPOLL_CTL_ADD, connection->fd, &event) == 0;
}

static void start(struct slot *slot);

static void fail(struct slot *slot, int why) {
    failures[why]++;
    last_progress = now();
    start(slot);
}

static int synced(long number) {
    char name[2 * URL_BYTES];
    snprintf(name, sizeof name, "%s/%s%ld", sync_directory, strrchr(target.path, '/') + 1, number);
    int fd = open(name, O_RDONLY);
    int good = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0) close(fd);
    return good;
}

static void succeed(struct slot *slot) {
    if (sync_directory && operation == PUT && !synced(slot->number)) {
        fail(slot, NOT_SYNCED);
        return;
    }
    last_progress = now();
    if (done == latencies_room) {
        latencies_room = latencies_room ? 2 * latencies_room : 1 << 20;
        latencies = enough(latencies, latencies_room * sizeof *latencies);
    }
    latencies[done++] = (uint32_t)((last_progress - slot->started) * 1e6);
    start(slot);
}

/* Sends as much as the socket takes; the rest goes when it has room again. Returns 0 when the connection is lost. */
static int send_some(struct slot *slot) {
    struct connection *connection = slot->current;
    while (slot->out[0].iov_len || slot->out[1].iov_len) {
        ssize_t sent = writev(connection->fd, slot->out, 2);
        if (sent < 0 && errno == EAGAIN) {
            struct epoll_event event = {.events = EPOLLIN | EPOLLOUT, .data.ptr = connection};
            return epoll_ctl(poller, EPOLL_CTL_MOD, connection->fd, &event) == 0;
        }
        if (sent < 0) return 0;
        for (int part = 0; part < 2; part++) {
            size_t taken = (size_t)sent < slot->out[part].iov_len ? (size_t)sent : slot->out[part].iov_len;
            slot->out[part].iov_base = (char *)slot->out[part].iov_base + taken;
            slot->out[part].iov_len -= taken;
            sent -= taken;
        }
    }
    return 1;
}

/* Returns 0 when it could not be sent; the failure is counted by the caller. */
static int request(struct slot *slot, struct connection *connection, const char *method, const char *path, long body) {
    if (connection->fd < 0) {
        reconnects += connection->dialled;
        if (!dial(connection)) {
            if (++refused_in_a_row > MOST_REFUSED) die("%s:%s can't be reached", connection->host, connection->port);
            return 0;
        }
    }
    refused_in_a_row = 0;
    slot->current = connection;
    connection->filled = connection->header = connection->body = 0;
    int length = snprintf(slot->head, sizeof slot->head, "%s %s HTTP/1.1\r\nHost: %s:%s\r\n", method, path,
                          connection->host, connection->port);
    if (body >= 0)
        length += sprintf(slot->head + length,
                          "Content-Type: application/octet-stream\r\nContent-Length: %ld\r\n", body);
    if (*token && connection == &slot->first)
        length += sprintf(slot->head + length, "Authorization: Bearer %s\r\n", token);
    if (operation == LAUNCH)
        length += sprintf(slot->head + length,
                          "Content-Type: application/json\r\nContent-Length: %zu\r\n", strlen(json));
    length += sprintf(slot->head + length, "\r\n");
    if (body > 0) /* the first 16 bytes of a body are its number; they are written right behind the header */
        length += snprintf(slot->head + length, body < 16 ? body + 1 : 17, "%016ld", slot->number);
    slot->out[0] = (struct iovec){slot->head, length};
    slot->out[1] = (struct iovec){pattern + 16, body > 16 ? body - 16 : 0};
    if (operation == LAUNCH) slot->out[1] = (struct iovec){(char *)json, strlen(json)};
    return send_some(slot);
}

/* Starts the next operation of a slot, or leaves it idle when there is none left to do. */
static void start(struct slot *slot) {
    slot->idle = (count && issued >= count) || (deadline && now() >= deadline);
    if (slot->idle) return;
    long number = issued++;
    if (range) number = random_order ? random() % range : number % range;
    slot->number = first + number;
    char path[URL_BYTES + 32];
    if (operation == LAUNCH) strcpy(path, target.path);
    else snprintf(path, sizeof path, "%s%ld", target.path, slot->number);
    static const char *const methods[] = {"PUT", "GET", "GET", "DELETE", "POST"};
    const char *method = methods[operation];
    slot->started = now();
    if (!request(slot, &slot->first, method, path, operation == PUT ? size : -1)) {
        hang_up(&slot->first);
        usleep(10000); /* a server that is away is not asked in a tight loop */
        fail(slot, REFUSED);
    }
}

/* The value of a header field, its length in *length; NULL when there is none. The buffer ends with 0. */
static const char *field(const struct connection *connection, const char *name, size_t *length) {
    size_t width = strlen(name);
    const char *line = strstr(connection->buffer, "\r\n");
    for (; line && line + 2 < connection->buffer + connection->header; line = strstr(line + 2, "\r\n")) {
        if (strncasecmp(line + 2, name, width) || line[2 + width] != ':') continue;
        const char *value = line + 3 + width + strspn(line + 3 + width, " \t");
        *length = strcspn(value, "\r");
        return value;
    }
    return NULL;
}

/* Reads the header once all of it is there. Returns 0 when this client can't make sense of it. */
static int parse(struct connection *connection) {
    const char *end = strstr(connection->buffer, "\r\n\r\n");
    if (!end) return connection->filled < 1 << 16;
    connection->header = end + 4 - connection->buffer;
    if (sscanf(connection->buffer, "HTTP/1.%*1d %3d", &connection->status) != 1 || connection->status < 200 ||
        connection->status >= STATUSES)
        return 0;
    size_t length;
    const char *value = field(connection, "Connection", &length);
    connection->close = value && !strncasecmp(value, "close", 5);
    if (connection->status == 204 || connection->status == 304) return 1;
    value = field(connection, "Content-Length", &length);
    if (!value) return 0; /* chunked, or until the connection closes: neither master nor node nor nginx answers so */
    connection->body = strtoul(value, NULL, 10);
    if (connection->header + connection->body >= connection->room) {
        connection->room = connection->header + connection->body + 1;
        connection->buffer = enough(connection->buffer, connection->room);
    }
    return 1;
}

static struct connection *node_connection(struct slot *slot, const struct url *url) {
    for (int i = 0; i < NODES; i++) {
        struct connection *node = &slot->nodes[i];
        if (!node->host[0]) {
            strcpy(node->host, url->host);
            strcpy(node->port, url->port);
        }
        if (!strcmp(node->host, url->host) && !strcmp(node->port, url->port)) return node;
    }
    die("redirects led to more than %d addresses", NODES);
    return NULL;
}

static void answered(struct slot *slot, struct connection *connection) {
    int status = connection->status;
    bytes_in += connection->header + connection->body;
    if (connection->close) hang_up(connection);
    if (operation == FOLLOW && connection == &slot->first) {
        size_t length;
        struct url url;
        const char *location = field(connection, "Location", &length);
        if (status < 301 || status > 308 || !location || !parse_url(location, length, &url)) {
            fail(slot, status);
            return;
        }
        struct connection *node = node_connection(slot, &url);
        if (!request(slot, node, "GET", url.path, -1)) {
            hang_up(node);
            fail(slot, REFUSED);
        }
        return;
    }
    if (status != 200 && status != 201 && status != 204) {
        fail(slot, status);
        return;
    }
    if (size >= 0 && (operation == GET || operation == FOLLOW)) {
        char number[32];
        size_t stamped = size < 16 ? size : 16;
        snprintf(number, sizeof number, "%016ld", slot->number);
        const char *body = connection->buffer + connection->header;
        if (connection->body != (size_t)size || memcmp(body, number, stamped) ||
            memcmp(body + stamped, pattern + stamped, size - stamped)) {
            fail(slot, WRONG_BODY);
            return;
        }
    }
    succeed(slot);
}

static void readable(struct connection *connection) {
    struct slot *slot = connection->slot;
    int waiting = slot->current == connection && !slot->idle;
    if (connection->filled + 4096 > connection->room && !connection->header) {
        connection->room += 65536;
        connection->buffer = enough(connection->buffer, connection->room);
    }
    ssize_t got = read(connection->fd, connection->buffer + connection->filled,
                       connection->room - connection->filled - 1);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) {
        hang_up(connection);
        if (waiting) fail(slot, LOST);
        return;
    }
    connection->filled += got;
    connection->buffer[connection->filled] = 0;
    if (!waiting || (!connection->header && !parse(connection))) {
        hang_up(connection);
        if (waiting) fail(slot, UNREADABLE);
        return;
    }
    if (connection->header && connection->filled >= connection->header + connection->body) answered(slot, connection);
}

static void writable(struct connection *connection) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    epoll_ctl(poller, EPOLL_CTL_MOD, connection->fd, &event);
    if (!send_some(connection->slot)) {
        hang_up(connection);
        fail(connection->slot, LOST);
    }
}

static int ascending(const void *left, const void *right) {
    uint32_t a = *(const uint32_t *)left, b = *(const uint32_t *)right;
    return (a > b) - (a < b);
}

static double percentile(double percent) {
    return done ? latencies[(size_t)((done - 1) * percent / 100)] / 1e3 : 0;
}

static void report(double seconds, int connections, const char *name) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec
                 + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
    qsort(latencies, done, sizeof *latencies, ascending);
    printf("{\"operation\": \"%s\", \"connections\": %d, \"operations\": %zu, \"issued\": %ld, \"seconds\": %.4f, "
           "\"rate\": %.1f, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f, \"client_cpu_seconds\": %.3f, "
           "\"bytes_in\": %ld, \"reconnects\": %ld, \"errors\": {",
           name, connections, done, issued, seconds, done / seconds, percentile(50), percentile(99), percentile(100),
           cpu, bytes_in, reconnects);
    const char *comma = "";
    for (int i = 0; i < STATUSES; i++) {
        if (!failures[i]) continue;
        if (i < (int)(sizeof FAILURES / sizeof *FAILURES)) printf("%s\"%s\": %ld", comma, FAILURES[i], failures[i]);
        else printf("%s\"status %d\": %ld", comma, i, failures[i]);
        comma = ", ";
    }
    printf("}}\n");
}

int main(int argc, char **argv) {
    static const char *const names[] = {"put", "get", "follow", "delete", "launch"};
    static const struct option options[] = {
        {"connections", 1, 0, 'c'}, {"count", 1, 0, 'n'}, {"seconds", 1, 0, 's'}, {"size", 1, 0, 'b'},
        {"first", 1, 0, 'f'},
        {"range", 1, 0, 'r'},       {"random", 0, 0, 'x'}, {"fsync", 1, 0, 'y'},  {"body", 1, 0, 'j'},
        {"token", 1, 0, 't'},
        {0}};
    int connections = 1, option, named = -1;
    double seconds = 0;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'c') connections = atoi(optarg);
        else if (option == 'n') count = atol(optarg);
        else if (option == 's') seconds = atof(optarg);
        else if (option == 'b') size = atol(optarg);
        else if (option == 'f') first = atol(optarg);
        else if (option == 'r') range = atol(optarg);
        else if (option == 'x') random_order = 1;
        else if (option == 'y') sync_directory = optarg;
        else if (option == 'j') json = optarg;
        else if (option == 't') token = optarg;
        else return 2;
    }
    for (int i = 0; argc - optind == 2 && i < 5; i++)
        if (!strcmp(argv[optind], names[i])) named = i;
    if (named < 0 || !parse_url(argv[optind + 1], strlen(argv[optind + 1]), &target) || connections < 1 ||
        connections > 1024 || (count <= 0) == (seconds <= 0))
        die("put|get|follow|delete|launch URL --connections N (--count N | --seconds S) [--size BYTES] [--first N] "
            "[--range N] "
            "[--random] [--fsync DIRECTORY] [--body JSON] [--token TOKEN]");
    operation = named;
    if (strlen(token) > 200) die("a token has at most 200 characters");
    if (operation == PUT && size < 0) die("put needs --size");
    if ((operation == GET || operation == FOLLOW) && range <= 0) die("%s needs --range", names[named]);
    pattern = enough(NULL, size > 16 ? size : 16);
    for (long i = 0; i < size; i++) pattern[i] = (char)(i * 167 + (i >> 8) * 31 + 13);
    srandom(20261124);
    poller = epoll_create1(0);
    struct slot *slots = calloc(connections, sizeof *slots);
    if (!slots) die("out of memory");
    for (int i = 0; i < connections; i++) {
        struct slot *slot = &slots[i];
        slot->first.slot = slot;
        slot->first.fd = -1;
        for (int node = 0; node < NODES; node++) slot->nodes[node] = (struct connection){.slot = slot, .fd = -1};
        strcpy(slot->first.host, target.host);
        strcpy(slot->first.port, target.port);
        if (!dial(&slot->first)) die("%s:%s can't be reached: %s", target.host, target.port, strerror(errno));
    }
    double began = last_progress = now();
    if (seconds > 0) deadline = began + seconds;
    for (int i = 0; i < connections; i++) start(&slots[i]);
    for (int busy = 1; busy && now() - last_progress < STALL_SECS;) {
        struct epoll_event events[256];
        int ready = epoll_wait(poller, events, 256, 1000);
        for (int i = 0; i < ready; i++) {
            struct connection *connection = events[i].data.ptr;
            if (connection->fd >= 0 && events[i].events & EPOLLOUT) writable(connection);
            if (connection->fd >= 0 && events[i].events & ~EPOLLOUT) readable(connection);
        }
        busy = 0;
        for (int i = 0; i < connections; i++) busy |= !slots[i].idle;
    }
    int hung = 0;
    for (int i = 0; i < connections; i++) hung += !slots[i].idle;
    if (hung) fprintf(stderr, "load: %d operations had no answer for %d seconds\n", hung, STALL_SECS);
    report(last_progress - began, connections, names[named]);
    return hung || !done;
}
