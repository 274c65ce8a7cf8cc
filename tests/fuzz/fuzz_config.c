/* The config file as it is, then its lines as flags and as variables; what must touch a file is
 * left out. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/config.h"

enum { LINES_MAX = 16 };

int LLVMFuzzerTestOneInput(const char *bytes, size_t len);

static void sane(const struct config *cfg) {
    assert(cfg->n_roots >= 0 && cfg->n_roots <= CONFIG_ROOTS_MAX);
    for (int64_t i = 0; i < cfg->n_roots; i++)
        assert(cfg->roots[i] && cfg->roots[i][0] == '/');
    assert(cfg->n_words <= CONFIG_WORDS_MAX);
    assert(cfg->role >= ROLE_NONE && cfg->role <= ROLE_ALL);
    assert(cfg->workers >= 0 && cfg->workers <= CONFIG_WORKERS_MAX);
}

/* Cuts `text` at its line ends; the names of files become names of nothing. */
static int cut(char *text, char **lines) {
    int n = 0;
    for (char *line = strtok(text, "\n"); line && n < LINES_MAX; line = strtok(NULL, "\n"))
        if (strncmp(line, "--config", 8) != 0 && strncmp(line, "TIERD_CONFIG", 12) != 0)
            lines[n++] = line;
    lines[n] = NULL;
    return n;
}

int LLVMFuzzerTestOneInput(const char *bytes, size_t len) {
    char *lines[LINES_MAX + 1], *none[] = {NULL}, *argv[LINES_MAX + 2] = {"tierd"};
    struct config cfg = {0};
    (void)config_read(&cfg, "fuzz", (struct str_view){bytes, len});
    sane(&cfg);
    config_release(&cfg);

    char *text = malloc(len + 1);
    memcpy(text, bytes, len);
    text[len] = '\0';
    int n = cut(text, lines);
    memcpy(argv + 1, lines, sizeof lines);
    if (config_load(&cfg, n + 1, argv, none) == 0)
        assert(cfg.help || cfg.version || cfg.role != ROLE_NONE || cfg.n_words);
    sane(&cfg);
    config_release(&cfg);
    (void)config_load(&cfg, 1, argv, lines);
    sane(&cfg);
    config_release(&cfg);
    free(text);
    return 0;
}
