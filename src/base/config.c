#include "base/config.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/url.h"

enum {
    LINE_BYTES = 4096,    /* the longest path of Linux */
    FILE_BYTES = 1 << 20, /* past it this is no config file */
    NAME_BYTES = 64,
};

enum type {
    TYPE_TEXT,
    TYPE_NUMBER,
    TYPE_DURATION,
    TYPE_SIZE,
    TYPE_WINDOW,
    TYPE_ROLE,
    TYPE_LEVEL,
    TYPE_FORMAT,
    TYPE_ROOT,
    TYPE_BOOL,
    TYPE_FLAG
};

struct option {
    const char *name;
    enum type type;
    size_t offset;
    const char *fallback; /* NULL: none. Of a flag: the commands that take it, each between blanks;
                             NULL: it stands alone */
    int64_t min, max;
    const char *help;
};

#define AT(field) offsetof(struct config, field)
#define FOREVER   INT64_C(3153600000000)

static const struct option options[] = {
    {"role", TYPE_ROLE, AT(role), NULL, 0, 0, "api, worker or all (one server with both)"},
    {"config", TYPE_TEXT, AT(file), NULL, 0, 0, "file with lines 'name = value'"},
    {"listen", TYPE_TEXT, AT(listen), "127.0.0.1:5000", 0, 0,
     "ADDR:PORT, [v6]:PORT or unix:/path; port 0 picks one"},
    {"redis", TYPE_TEXT, AT(redis), "redis://127.0.0.1:6379/1", 0, 0,
     "redis://, rediss:// (TLS) or unix:///path?db=1"},
    {"redis-password-file", TYPE_TEXT, AT(redis_password_file), NULL, 0, 0,
     "file with the password"},
    {"db", TYPE_TEXT, AT(db), "mysql://tierd@127.0.0.1:3306/tierd", 0, 0,
     "mysql:// or mariadb://; ?socket=/path for a unix socket"},
    {"db-password-file", TYPE_TEXT, AT(db_password_file), NULL, 0, 0, "file with the password"},
    {"api", TYPE_TEXT, AT(api), "http://127.0.0.1:5000", 0, 0,
     "where workers post, http:// or http+unix:///path"},
    {"workers", TYPE_NUMBER, AT(workers), NULL, 1, CONFIG_WORKERS_MAX,
     "worker processes (default: number of cores, at least 2)"},
    {"api-workers", TYPE_NUMBER, AT(api_workers), "1", 1, 64, "API processes sharing the port"},
    {"root", TYPE_ROOT, AT(roots), NULL, 0, 0,
     "directory under which levels must lie; repeatable, a worker needs one"},
    {"lease", TYPE_DURATION, AT(lease_ms), "30s", 500, 86400000,
     "lifetime of a claim, renewed meanwhile"},
    {"drain-timeout", TYPE_DURATION, AT(drain_timeout_ms), "30s", 100, 86400000,
     "time to finish after SIGTERM"},
    {"done-ttl", TYPE_DURATION, AT(done_ttl_ms), "7d", 0, FOREVER,
     "how long finished jobs stay in Redis, 0 for ever"},
    {"scan-interval", TYPE_DURATION, AT(scan_interval_ms), "5s", 100, 86400000,
     "pause between searches for jobs that other programs wrote"},
    {"max-connections", TYPE_NUMBER, AT(max_connections), "16384", 1, 1000000,
     "HTTP connections open at once, per API process"},
    {"max-connections-per-address", TYPE_NUMBER, AT(max_connections_per_address), "0", 0, 1000000,
     "of them from one client address (IPv6: /64), 0 for no bound"},
    {"request-timeout", TYPE_DURATION, AT(request_timeout_ms), "10s", 10, 3600000,
     "from a request's first byte to its last"},
    {"idle-timeout", TYPE_DURATION, AT(idle_timeout_ms), "60s", 10, 86400000,
     "between two requests of a connection"},
    {"levels", TYPE_TEXT, AT(levels), NULL, 0, 0,
     "a,b,...: take only jobs whose levels are all among these (default: any)"},
    {"level-jobs", TYPE_NUMBER, AT(level_jobs), "0", 0, 100000,
     "most moves into one level at once, of all workers; 0: any number"},
    {"window", TYPE_WINDOW, AT(window), NULL, 0, 0,
     "HH:MM-HH:MM, local time, when moves may start (default: always)"},
    {"bandwidth", TYPE_SIZE, AT(bandwidth_bytes), "0", 0, INT64_MAX,
     "bytes a second that the workers of this process copy together; 0: no limit"},
    {"retire-delay", TYPE_DURATION, AT(retire_delay_ms), "0", 0, FOREVER,
     "how long the old copy stays after a move, for readers with a cache"},
    {"demote-margin", TYPE_TEXT, AT(demote_margin), NULL, 0, 0,
     "10%: a content goes down only this far below its level's threshold"},
    {"min-residency", TYPE_DURATION, AT(min_residency_ms), "0", 0, FOREVER,
     "how long a content stays after a move before it is moved again"},
    {"max-use", TYPE_TEXT, AT(max_use), NULL, 0, 0,
     "90% or gold=80%,90%: nothing goes up into a level that is fuller"},
    {"keep-empty-dirs", TYPE_BOOL, AT(keep_empty_dirs), "no", 0, 0,
     "yes: leave directories below a level that a move has emptied"},
    {"require-markers", TYPE_BOOL, AT(require_markers), "no", 0, 0,
     "yes: use no level without a marker file (see init-level)"},
    {"verify", TYPE_BOOL, AT(verify), "no", 0, 0, "yes: read every copy back and compare it"},
    {"log-level", TYPE_LEVEL, AT(log_level), "info", 0, 0, "debug, info, warn or error"},
    {"log-format", TYPE_FORMAT, AT(log_format), "text", 0, 0, "text (logfmt) or json"},
    {"repair", TYPE_FLAG, AT(repair), " check ", 0, 0, "check: mend what it finds"},
    {"json", TYPE_FLAG, AT(json),
     " check init-level status explain post retry cancel pause resume ", 0, 0,
     "commands: answer in JSON"},
    {"watch", TYPE_FLAG, AT(watch), " status ", 0, 0, "status: show it again every second"},
    {"dry-run", TYPE_FLAG, AT(dry_run), " post ", 0, 0,
     "post: say what would move, change nothing"},
    {"all-dead", TYPE_FLAG, AT(all_dead), " retry ", 0, 0, "retry: every dead job"},
    {"all", TYPE_FLAG, AT(all), " pause resume ", 0, 0, "pause, resume: all levels"},
    {"help", TYPE_FLAG, AT(help), NULL, 0, 0, "show this"},
    {"version", TYPE_FLAG, AT(version), NULL, 0, 0, "show versions of tierd and of what it links"},
};
enum { N_OPTIONS = sizeof options / sizeof *options };

static_assert((int)N_OPTIONS <= (int)CONFIG_OPTIONS_MAX, "CONFIG_OPTIONS_MAX");

static const struct option *find_option(const char *name, size_t len) {
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (str_is((struct str_view){name, len}, options[i].name))
            return &options[i];
    return NULL;
}

/* Writes TIERD_NAME; its length. */
static size_t variable_name(const char *name, char out[NAME_BYTES]) {
    size_t n = (size_t)snprintf(out, NAME_BYTES, "TIERD_%s", name);
    for (char *p = out + strlen("TIERD_"); *p; p++)
        *p = *p == '-' ? '_' : (char)(*p - 'a' + 'A');
    return n;
}

/* How a complaint begins. An empty name: the line itself is wrong. */
static void place(const struct config_source *src, const char *file, const char *name,
                  char out[CONFIG_PLACE_BYTES]) {
    char variable[NAME_BYTES];
    switch (src->from) {
    case CONFIG_FILE:
        snprintf(out, CONFIG_PLACE_BYTES, "%.256s:%d: %.64s%s", file, src->line, name,
                 *name ? ": " : "");
        break;
    case CONFIG_ENV:
        variable_name(name, variable);
        snprintf(out, CONFIG_PLACE_BYTES, "%s: ", variable);
        break;
    case CONFIG_FLAG:
        snprintf(out, CONFIG_PLACE_BYTES, "--%s: ", name);
        break;
    case CONFIG_DEFAULT:
        snprintf(out, CONFIG_PLACE_BYTES, "%s: ", name);
        break;
    }
}

/* Says what is wrong; the exit status, by where it stands. */
static int complain(const struct config_source *src, const char *file, const char *name,
                    const char *value, const char *allowed) {
    static const int statuses[] = {[CONFIG_DEFAULT] = EX_SOFTWARE,
                                   [CONFIG_FILE] = EX_CONFIG,
                                   [CONFIG_ENV] = EX_USAGE,
                                   [CONFIG_FLAG] = EX_USAGE};
    char where[CONFIG_PLACE_BYTES], shown[URL_SHOWN_BYTES];
    place(src, file, name, where);
    url_shown(value, shown);
    log_refusal("%s'%s' is not allowed; %s", where, shown, allowed);
    return statuses[src->from];
}

void config_place(const struct config *cfg, const char *option, char out[CONFIG_PLACE_BYTES]) {
    const struct option *o = find_option(option, strlen(option));
    assert(o);
    place(&cfg->sources[o - options], cfg->file, option, out);
}

int config_refuse(const struct config *cfg, const char *option, const char *allowed) {
    const struct option *o = find_option(option, strlen(option));
    assert(o && o->type == TYPE_TEXT);
    return complain(&cfg->sources[o - options], cfg->file, option,
                    *(char *const *)((const char *)cfg + o->offset), allowed);
}

static int set_text(char **slot, const char *value) {
    char *copy = strdup(value);
    if (!copy)
        return -ENOMEM;
    free(*slot);
    *slot = copy;
    return 0;
}

static int set_number(const struct option *o, int64_t *slot, const char *value) {
    int64_t n;
    if (o->type == TYPE_SIZE) {
        uint64_t u;
        if (str_size_bytes(str_view(value), &u) < 0 || u > INT64_MAX)
            return -EINVAL;
        n = (int64_t)u;
    } else if (o->type == TYPE_DURATION) {
        if (str_duration_ms(str_view(value), &n) < 0)
            return -EINVAL;
    } else {
        uint64_t u;
        if (str_u64(str_view(value), INT64_MAX, &u) < 0)
            return -EINVAL;
        n = (int64_t)u;
    }
    if (n < o->min || n > o->max)
        return -ERANGE;
    *slot = n;
    return 0;
}

static int set_root(struct config *cfg, const char *value) {
    if (value[0] != '/' || cfg->n_roots == CONFIG_ROOTS_MAX)
        return -EINVAL;
    return set_text(&cfg->roots[cfg->n_roots++], value);
}

static int set_role(enum role *slot, const char *value) {
    static const char *const names[] = {"", "api", "worker", "all"};
    for (int i = 1; i < 4; i++) {
        if (strcmp(value, names[i]) == 0) {
            *slot = (enum role)i;
            return 0;
        }
    }
    return -EINVAL;
}

static void describe(const struct option *o, char out[160]) {
    switch (o->type) {
    case TYPE_NUMBER:
        snprintf(out, 160, "allowed is a number from %" PRId64 " to %" PRId64, o->min, o->max);
        break;
    case TYPE_DURATION:
        snprintf(out, 160,
                 "allowed is a duration such as 250ms, 30s, 10m, 12h, 7d, from %" PRId64
                 " ms to %" PRId64 " ms",
                 o->min, o->max);
        break;
    case TYPE_SIZE:
        snprintf(out, 160, "allowed is a number of bytes such as 65536, 512K, 100M, 2G");
        break;
    case TYPE_BOOL:
        snprintf(out, 160, "allowed is yes or no");
        break;
    case TYPE_ROOT:
        snprintf(out, 160, "allowed is an absolute path, at most %d times", CONFIG_ROOTS_MAX);
        break;
    default:
        snprintf(out, 160, "allowed is %s", o->help);
    }
}

static int set_value(struct config *cfg, const struct option *o, const char *value,
                     const struct config_source *src, const char *file) {
    void *slot = (char *)cfg + o->offset;
    int rc = 0;
    switch (o->type) {
    case TYPE_TEXT:
        rc = *value ? set_text(slot, value) : -EINVAL;
        break;
    case TYPE_NUMBER:
    case TYPE_DURATION:
    case TYPE_SIZE:
        rc = set_number(o, slot, value);
        break;
    case TYPE_WINDOW:
        rc = window_parse(value, slot);
        break;
    case TYPE_ROLE:
        rc = set_role(slot, value);
        break;
    case TYPE_LEVEL:
        rc = log_level_parse(value, slot);
        break;
    case TYPE_FORMAT:
        rc = log_format_parse(value, slot);
        break;
    case TYPE_ROOT:
        rc = set_root(cfg, value);
        break;
    case TYPE_BOOL:
        if (strcmp(value, "yes") != 0 && strcmp(value, "no") != 0)
            rc = -EINVAL;
        else
            *(bool *)slot = value[0] == 'y';
        break;
    case TYPE_FLAG:
        *(bool *)slot = true;
        break;
    }
    if (rc == 0) {
        cfg->sources[o - options] = *src;
        return 0;
    }
    char allowed[160];
    describe(o, allowed);
    return complain(src, file, o->name, value, allowed);
}

/* A later, stronger source replaces the whole list of roots, it does not add to it. */
static void forget_roots(struct config *cfg) {
    while (cfg->n_roots > 0) {
        free(cfg->roots[--cfg->n_roots]);
        cfg->roots[cfg->n_roots] = NULL;
    }
}

static char *trim(char *s) {
    while (*s == ' ' || *s == '\t')
        s++;
    size_t n = strlen(s);
    while (n && (s[n - 1] == ' ' || s[n - 1] == '\t' || s[n - 1] == '\n' || s[n - 1] == '\r'))
        s[--n] = '\0';
    return s;
}

static int load_line(struct config *cfg, char *line, const struct config_source *src,
                     const char *file) {
    line = trim(line);
    if (!*line || *line == '#')
        return 0;
    char *eq = strchr(line, '=');
    if (!eq)
        return complain(src, file, "", line, "a line is 'name = value' or a comment after '#'");
    *eq = '\0';
    char *name = trim(line);
    const struct option *o = find_option(name, strlen(name));
    if (!o || o->type == TYPE_FLAG || strcmp(name, "config") == 0)
        return complain(src, file, "", name, "it is not an option of the file (see tierd --help)");
    return set_value(cfg, o, trim(eq + 1), src, file);
}

int config_read(struct config *cfg, const char *name, struct str_view text) {
    char line[LINE_BYTES];
    struct config_source src = {CONFIG_FILE, 0};
    int rc = 0;
    while (rc == 0 && text.len) {
        const char *lf = memchr(text.ptr, '\n', text.len);
        struct str_view v = {text.ptr, lf ? (size_t)(lf - text.ptr) : text.len};
        size_t taken = v.len + (lf ? 1 : 0);
        src.line++;
        if (str_copy(line, sizeof line, v) < 0)
            rc = complain(&src, name, "", "this line", "a line has at most 4095 bytes and no NUL");
        else
            rc = load_line(cfg, line, &src, name);
        text = (struct str_view){text.ptr + taken, text.len - taken};
    }
    return rc;
}

static int load_file(struct config *cfg) {
    struct buf text;
    int err = 0;
    FILE *f = fopen(cfg->file, "re");
    buf_init(&text, FILE_BYTES);
    if (!f)
        err = errno;
    while (f && err == 0 && !feof(f)) {
        err = -buf_reserve(&text, LINE_BYTES);
        if (err == 0)
            text.len += fread(text.data + text.len, 1, text.cap - text.len, f);
        if (err == 0 && ferror(f))
            err = errno;
    }
    if (f)
        fclose(f);
    int rc = EX_CONFIG;
    if (err)
        log_refusal("--config: cannot read %s: %s", cfg->file,
                    err == ENOBUFS ? "it is larger than 1 MiB" : strerror(err));
    else
        rc = config_read(cfg, cfg->file, buf_view(&text));
    buf_release(&text);
    return rc;
}

static int load_env(struct config *cfg, char **env) {
    const struct config_source src = {CONFIG_ENV, 0};
    for (size_t i = 0; i < N_OPTIONS; i++) {
        char name[NAME_BYTES];
        size_t n = variable_name(options[i].name, name);
        for (char **e = env; *e; e++) {
            if (strncmp(*e, name, n) != 0 || (*e)[n] != '=' || options[i].type == TYPE_FLAG)
                continue;
            if (options[i].type == TYPE_ROOT)
                forget_roots(cfg);
            int rc = set_value(cfg, &options[i], *e + n + 1, &src, NULL);
            if (rc)
                return rc;
        }
    }
    return 0;
}

/* A word that is no option: the command, or one of its arguments. */
static int load_word(struct config *cfg, const char *arg) {
    if (cfg->n_words == CONFIG_WORDS_MAX) {
        log_refusal("a command takes at most %d words", CONFIG_WORDS_MAX);
        return EX_USAGE;
    }
    cfg->words[cfg->n_words++] = arg;
    return 0;
}

/* A flag of commands is refused where it would mean nothing. */
static int check_flag(const struct config *cfg, const struct option *o) {
    char padded[64];
    if (o->type != TYPE_FLAG || !o->fallback || !*(const bool *)((const char *)cfg + o->offset))
        return 0;
    snprintf(padded, sizeof padded, " %.32s ", cfg->n_words ? cfg->words[0] : "a role");
    if (strstr(o->fallback, padded))
        return 0;
    log_refusal("--%s does not go with%.*s; it goes with:%.*s", o->name, (int)strlen(padded) - 1,
                padded, (int)strlen(o->fallback) - 1, o->fallback);
    return EX_USAGE;
}

static int load_flag(struct config *cfg, const char *arg, bool *roots_seen) {
    const struct config_source src = {CONFIG_FLAG, 0};
    if (strncmp(arg, "--", 2) != 0)
        return load_word(cfg, arg);
    const char *name = arg + 2;
    size_t len = strcspn(name, "=");
    const struct option *o = find_option(name, len);
    if (!o) {
        log_refusal("unknown option '--%.*s' (tierd --help lists them all)", (int)len, name);
        return EX_USAGE;
    }
    if ((o->type == TYPE_FLAG) == (name[len] == '=')) {
        log_refusal("--%s %s", o->name,
                    o->type == TYPE_FLAG ? "takes no value" : "needs a value: --name=value");
        return EX_USAGE;
    }
    if ((strcmp(o->name, "redis") == 0 || strcmp(o->name, "db") == 0) &&
        url_secret(name + len + 1).len) { /* it would stand in every process list */
        log_refusal("--%s: a password is not accepted on the command line, where every user "
                    "can read it; use --%s-password-file, TIERD_%s or the config file",
                    o->name, o->name, o->name[0] == 'r' ? "REDIS" : "DB");
        return EX_USAGE;
    }
    if (o->type == TYPE_ROOT && !*roots_seen) {
        *roots_seen = true;
        forget_roots(cfg);
    }
    return set_value(cfg, o, o->type == TYPE_FLAG ? "" : name + len + 1, &src, NULL);
}

static int load_defaults(struct config *cfg) {
    const struct config_source src = {CONFIG_DEFAULT, 0};
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    cfg->workers = cores < 2 ? 2 : cores > CONFIG_WORKERS_MAX ? CONFIG_WORKERS_MAX : cores;
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        int rc =
            o->fallback && o->type != TYPE_FLAG ? set_value(cfg, o, o->fallback, &src, NULL) : 0;
        if (rc)
            return rc;
    }
    return 0;
}

/* Whether it is clear what to do: a role, or a command. */
static int check_purpose(const struct config *cfg) {
    if (cfg->n_words)
        return 0; /* a role may stand in the file: a command on the same machine reads it too */
    if (cfg->role == ROLE_NONE) {
        log_refusal("--role is missing; allowed is api, worker or all, or a command (see "
                    "tierd --help)");
        return EX_USAGE;
    }
    if (cfg->role != ROLE_API && cfg->n_roots == 0) {
        log_refusal("--root is missing; a worker needs at least one directory under which "
                    "the levels lie");
        return EX_USAGE;
    }
    return 0;
}

/* A password that systemd handed over (LoadCredential=tierd.NAME, systemd.exec(5)) is as weak as a
 * default: any other word on it beats it. */
static int use_credential(char **slot, const char *name) {
    const char *folder = getenv("CREDENTIALS_DIRECTORY");
    char path[PATH_MAX];
    if (*slot || !folder ||
        (size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path ||
        access(path, F_OK) < 0)
        return 0;
    return set_text(slot, path);
}

int config_load(struct config *cfg, int argc, char **argv, char **env) {
    *cfg = (struct config){0};
    bool roots_seen = false;
    int rc = load_defaults(cfg);
    /* The file is weaker but named by the stronger: look for its name first. */
    for (char **e = env; rc == 0 && *e; e++)
        if (strncmp(*e, "TIERD_CONFIG=", 13) == 0)
            rc = set_text(&cfg->file, *e + 13) < 0 ? EX_OSERR : 0;
    for (int i = 1; rc == 0 && i < argc; i++)
        if (strncmp(argv[i], "--config=", 9) == 0)
            rc = set_text(&cfg->file, argv[i] + 9) < 0 ? EX_OSERR : 0;
    if (rc == 0 && cfg->file)
        rc = load_file(cfg);
    if (rc == 0)
        rc = load_env(cfg, env);
    for (int i = 1; rc == 0 && i < argc; i++)
        rc = load_flag(cfg, argv[i], &roots_seen);
    if (rc == 0 && (use_credential(&cfg->redis_password_file, "tierd.redis-password") < 0 ||
                    use_credential(&cfg->db_password_file, "tierd.db-password") < 0))
        rc = EX_OSERR;
    for (size_t i = 0; rc == 0 && i < N_OPTIONS; i++)
        rc = check_flag(cfg, &options[i]);
    return rc == 0 && !cfg->help && !cfg->version ? check_purpose(cfg) : rc;
}

void config_release(struct config *cfg) {
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (options[i].type == TYPE_TEXT)
            free(*(char **)((char *)cfg + options[i].offset));
    forget_roots(cfg);
    *cfg = (struct config){0};
}

void config_help(FILE *out) {
    fprintf(out, "tierd - moves content between storage levels as its view counts change\n\n"
                 "usage: tierd --role=api|worker|all [--name=value ...]\n"
                 "       tierd COMMAND [ARGUMENT ...] [--name=value ...]\n\n");
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const struct option *o = &options[i];
        fprintf(out, "  --%-27s %s", o->name, o->help);
        if (o->fallback && o->type != TYPE_FLAG)
            fprintf(out, " [%s]", o->fallback);
        fputc('\n', out);
    }
    fprintf(out,
            "\nEvery option is also a variable TIERD_NAME (dashes become underscores) and a line\n"
            "'name = value' of the config file. Flags beat environment beat file beat defaults.\n");
}
