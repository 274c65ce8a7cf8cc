/*
 * name: which file names the catalogue may hold. Pure.
 */
#ifndef TIERD_BASE_NAME_H
#define TIERD_BASE_NAME_H

/* Every name that tierd makes for itself begins so; content may not (CONTRACT.md, section 5). */
#define NAME_PRIVATE_PREFIX ".tierd"

enum {
    NAME_COMPONENT_MAX =
        255,              /* NAME_MAX of every file system that tierd meets, path_resolution(7) */
    NAME_PATH_MAX = 3072, /* the catalogue's column; below PATH_MAX with a level's path before it */
};

enum name_check {
    NAME_OK,
    NAME_EMPTY,
    NAME_ABSOLUTE,
    NAME_EMPTY_COMPONENT,
    NAME_DOTS,
    NAME_CONTROL,
    NAME_PRIVATE,
    NAME_TOO_LONG,
};

/* Whether `name` may be a content's name below a level's directory. */
enum name_check name_check(const char *name);

/* One sentence for a person. */
const char *name_check_text(enum name_check why);

#endif
