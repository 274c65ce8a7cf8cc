#include "fs/meta.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "base/sys.h"

enum {
    LIST_BYTES = 65536,          /* XATTR_LIST_MAX, XATTR_SIZE_MAX of Linux */
    ATTRIBUTE_ROOM = 256 * 1024, /* with so much free, it is not for want of room that one does not
                                    fit */
    COARSEST_S = 2,              /* FAT's times of modification */
};

/* ioctl_iflags(2). */
enum {
    FLAG_SYNC = 0x8,
    FLAG_IMMUTABLE = 0x10,
    FLAG_APPEND = 0x20,
    FLAG_NODUMP = 0x40,
    FLAG_NOATIME = 0x80,
    FLAG_VERITY = 0x100000,
};
static const unsigned kept_flags = FLAG_SYNC | FLAG_NODUMP | FLAG_NOATIME;

static const char acl[] = "system.posix_acl_access";
static const char nfs4_acl[] = "system.nfs4_acl";
static const char capability[] = "security.capability";

/* ---- outcomes ---- */

static bool has_room(int fd) {
    struct statvfs vfs;
    return fstatvfs(fd, &vfs) == 0 && file_free_bytes(&vfs) >= ATTRIBUTE_ROOM;
}

/* Says what failed, by errno. */
static enum move_rc failed(struct meta *m, const char *what, const char *name) {
    m->error = errno;
    snprintf(m->what, sizeof m->what, "%s%s", what, name);
    switch (m->error) {
    case EPERM:
    case EACCES:
    case ENOTSUP:
    case ENOTTY:
    case EINVAL: /* an owner that has no number there: user namespaces, mounts with mapped ids */
    case EOVERFLOW:
    case E2BIG:
    case ERANGE:
    case ENAMETOOLONG:
        return MOVE_UNKEPT;
    case ENOSPC: /* also of an attribute that is larger than the file system can hold (ext4) */
        return has_room(m->to) ? MOVE_UNKEPT : MOVE_NOSPACE;
    default:
        break;
    }
    enum move_rc rc = file_classify(m->error);
    return rc == MOVE_MISSING ? MOVE_IO : rc;
}

/* Everything that changes `to` asks first. */
static enum move_rc may_change(struct meta *m) {
    m->changed = !m->shared;
    return m->shared ? MOVE_HARDLINKS : MOVE_OK;
}

/* ---- flags ---- */

/* What has none says so in many ways (ENOTTY, ENOSYS, EOPNOTSUPP, EINVAL). */
static unsigned flags_of(int fd) {
    unsigned flags;
    return sys_flags_get(fd, &flags) == 0 ? flags : 0;
}

enum move_rc meta_look(struct meta *m) {
    m->flags = flags_of(m->from);
    if (m->flags & (FLAG_IMMUTABLE | FLAG_APPEND))
        return MOVE_FIXED;
    errno = EOPNOTSUPP;
    return m->flags & FLAG_VERITY ? failed(m, "keep the seal of fs-verity", "") : MOVE_OK;
}

/* The one that fewest file systems have, if there are several. */
static const char *flag_text(unsigned flags) {
    return flags & FLAG_SYNC      ? "S (synchronous)"
           : flags & FLAG_NOATIME ? "A (no access times)"
                                  : "d (no dump)";
}

/* A folder with such a flag hands it down. */
static enum move_rc copy_flags(struct meta *m) {
    unsigned now = flags_of(m->to), differ = (now ^ m->flags) & kept_flags;
    m->rich = m->rich || differ;
    if (!differ)
        return MOVE_OK;
    enum move_rc rc = may_change(m);
    if (rc != MOVE_OK)
        return rc;
    return sys_flags_set(m->to, now ^ differ) < 0 ? failed(m, "keep the flag ", flag_text(differ))
                                                  : MOVE_OK;
}

/* ---- extended attributes ---- */

/* The names of both sides, one behind the other with a NUL between, and room for two values. */
struct names {
    char *block; /* NULL: neither has any */
    const char *want, *have;
    size_t n_want, n_have;
};

static bool is_label(const char *name) {
    return strncmp(name, "security.", 9) == 0 && strcmp(name, capability) != 0;
}

/* Not of the file itself: how its data is stored (btrfs), and lists of rights in another form
 * (XFS), which come and go with them. */
static bool is_storage(const char *name) {
    return strncmp(name, "btrfs.", 6) == 0 || strncmp(name, "trusted.SGI_ACL_", 16) == 0;
}

/* Whether it is ours to take away where the source has none. */
static bool is_ours(const char *name) {
    return !is_storage(name) &&
           (strncmp(name, "user.", 5) == 0 || strncmp(name, "trusted.", 8) == 0 ||
            strncmp(name, "system.posix_acl_", 17) == 0 || strcmp(name, capability) == 0);
}

static bool holds(const char *list, size_t n, const char *name) {
    for (const char *p = list; p < list + n; p += strlen(p) + 1)
        if (strcmp(p, name) == 0)
            return true;
    return false;
}

/* Room for a value of LIST_BYTES, where there are names. */
static char *room(const struct names *n, size_t which) {
    return n->block + (2 + which) * (size_t)LIST_BYTES;
}

/* How many bytes of names; -1 with errno. */
static ssize_t list_names(int fd, char *list, size_t cap) {
    ssize_t n = flistxattr(fd, list, cap);
    return n < 0 && (errno == ENOTSUP || errno == ENOSYS) ? 0 : n;
}

static enum move_rc names_read(struct meta *m, struct names *n) {
    *n = (struct names){.want = "", .have = ""};
    ssize_t want = list_names(m->from, NULL, 0), have = list_names(m->to, NULL, 0);
    if (want == 0 && have == 0)
        return MOVE_OK;
    if (want < 0 || have < 0 || !(n->block = malloc((size_t)4 * LIST_BYTES)))
        return failed(m, "list extended attributes", "");
    want = list_names(m->from, n->block, LIST_BYTES);
    have = list_names(m->to, n->block + LIST_BYTES, LIST_BYTES);
    if (want < 0 || have < 0)
        return failed(m, "list extended attributes", "");
    n->want = n->block;
    n->have = n->block + LIST_BYTES;
    n->n_want = (size_t)want;
    n->n_have = (size_t)have;
    return MOVE_OK;
}

/* Whether both have the same under the name, or neither has it. */
static bool same_value(const struct meta *m, const struct names *n, const char *name) {
    bool want = holds(n->want, n->n_want, name), have = holds(n->have, n->n_have, name);
    if (!want || !have || !n->block)
        return want == have;
    ssize_t k = fgetxattr(m->from, name, room(n, 0), LIST_BYTES);
    return k >= 0 && fgetxattr(m->to, name, room(n, 1), LIST_BYTES) == k &&
           memcmp(room(n, 0), room(n, 1), (size_t)k) == 0;
}

static uint32_t xdr_u32(const unsigned char *p) {
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

bool meta_nfs4_is_mode(const void *list, size_t n) {
    static const char *const known[] = {"OWNER@", "GROUP@", "EVERYONE@"};
    const unsigned char *p = list, *end = p + n;
    if (n < 4)
        return false;
    uint32_t aces = xdr_u32(p);
    for (p += 4; aces > 0; aces--) { /* type, flag, mask, and who: a length and so many bytes */
        if (end - p < 16)
            return false;
        size_t len = xdr_u32(p + 12), i = 0;
        while (i < 3 && (strlen(known[i]) != len || (size_t)(end - p - 16) < len ||
                         memcmp(p + 16, known[i], len) != 0))
            i++;
        if (i == 3)
            return false;
        p += 16 + (len + 3) / 4 * 4;
    }
    return true;
}

/* What a failure to set it means: labels are the destination's own policy, and an NFS list may say
 * no more than the mode. Else what was set on the source must not get lost silently. */
static bool may_lack(const char *name, const char *value, size_t n) {
    if (strcmp(name, nfs4_acl) == 0)
        return errno == ENOTSUP && meta_nfs4_is_mode(value, n);
    return is_label(name) && errno != EIO && errno != ENOMEM;
}

static enum move_rc copy_attribute(struct meta *m, const struct names *n, const char *name) {
    if (is_storage(name) || (holds(n->have, n->n_have, name) && same_value(m, n, name)))
        return MOVE_OK;
    ssize_t k = fgetxattr(m->from, name, room(n, 0), LIST_BYTES);
    if (k < 0)
        return errno == ENODATA ? MOVE_CHANGED : failed(m, "read the extended attribute ", name);
    enum move_rc rc = may_change(m);
    if (rc != MOVE_OK)
        return rc;
    return fsetxattr(m->to, name, room(n, 0), (size_t)k, 0) == 0 ||
                   may_lack(name, room(n, 0), (size_t)k)
               ? MOVE_OK
               : failed(m, "keep the extended attribute ", name);
}

/* A capability went with the owner, and who may not take it away is told so though there is none.
 * errno stays. */
static bool still_has(const struct meta *m, const char *name) {
    int error = errno;
    bool has = fgetxattr(m->to, name, NULL, 0) >= 0 || errno != ENODATA;
    errno = error;
    return has;
}

/* Takes away what only the copy has: inherited from its folder, or from before it was adopted. */
static enum move_rc remove_foreign(struct meta *m, const struct names *n) {
    enum move_rc rc = MOVE_OK;
    for (const char *p = n->have; rc == MOVE_OK && p < n->have + n->n_have; p += strlen(p) + 1) {
        if (!is_ours(p) || holds(n->want, n->n_want, p))
            continue;
        rc = may_change(m);
        if (rc == MOVE_OK && fremovexattr(m->to, p) < 0 && still_has(m, p))
            rc = failed(m, "take away the extended attribute ", p);
    }
    return rc;
}

/* The list of rights last: with it the owner may lack that to set others. */
static enum move_rc copy_attributes(struct meta *m, const struct names *n) {
    enum move_rc rc = remove_foreign(m, n);
    for (const char *p = n->want; rc == MOVE_OK && p < n->want + n->n_want; p += strlen(p) + 1)
        rc = strcmp(p, acl) != 0 ? copy_attribute(m, n, p) : MOVE_OK;
    return rc == MOVE_OK && holds(n->want, n->n_want, acl) ? copy_attribute(m, n, acl) : rc;
}

/* A list of NFS that its folder handed down gives rights that the source does not. */
static bool has_foreign_nfs4(const struct meta *m, const struct names *n) {
    if (!n->block || !holds(n->have, n->n_have, nfs4_acl) || holds(n->want, n->n_want, nfs4_acl))
        return false;
    ssize_t k = fgetxattr(m->to, nfs4_acl, room(n, 0), LIST_BYTES);
    return k >= 0 && !meta_nfs4_is_mode(room(n, 0), (size_t)k);
}

static enum move_rc lacks(struct meta *m, const char *what, const char *name) {
    errno = EPERM;
    return failed(m, what, name);
}

/* Both ways: nothing is lacking, and nothing is there that the source has not. */
static enum move_rc check_attributes(struct meta *m, const struct names *n) {
    for (const char *p = n->want; p < n->want + n->n_want; p += strlen(p) + 1)
        if (!is_storage(p) && !is_label(p) && strcmp(p, nfs4_acl) != 0 && !same_value(m, n, p))
            return lacks(m, "keep the extended attribute ", p);
    for (const char *p = n->have; p < n->have + n->n_have; p += strlen(p) + 1)
        if (is_ours(p) && !holds(n->want, n->n_want, p))
            return lacks(m, "take away the extended attribute ", p);
    return has_foreign_nfs4(m, n) ? lacks(m, "take away the extended attribute ", nfs4_acl)
                                  : MOVE_OK;
}

/* ---- owner and mode ---- */

static bool same_owner(const struct stat *a, const struct stat *b) {
    return a->st_uid == b->st_uid && a->st_gid == b->st_gid;
}

static bool same_mode(const struct stat *a, const struct stat *b) {
    return ((a->st_mode ^ b->st_mode) & 07777) == 0;
}

/* Nobody but its owner has a right while they change. With none for the group, a list gives none to
 * those whom it names (acl(5), the mask). A folder keeps what says that it is not finished. */
static enum move_rc narrow(struct meta *m, const struct stat *now) {
    mode_t mode = m->folder ? (now->st_mode & 07000) | 0700 : 0600;
    if ((now->st_mode & 07777) == mode)
        return MOVE_OK;
    return fchmod(m->to, mode) < 0 ? failed(m, "keep the mode", "") : MOVE_OK;
}

/* Owner, attributes, mode, in this order: a change of owner takes file capabilities and the bits
 * setuid and setgid along, as it should those of an adopted file, for which we may lack the right
 * to take them away otherwise; a list changes the mode. */
static enum move_rc copy_rights(struct meta *m, const struct names *n, const struct stat *now) {
    bool owner = !same_owner(now, m->st) || !same_value(m, n, capability);
    bool rights = owner || !same_mode(now, m->st) || !same_value(m, n, acl);
    enum move_rc rc = rights ? may_change(m) : MOVE_OK;
    if (rc == MOVE_OK && rights)
        rc = narrow(m, now);
    if (rc == MOVE_OK && owner && fchown(m->to, m->st->st_uid, m->st->st_gid) < 0)
        rc = failed(m, "keep the owner", "");
    if (rc == MOVE_OK)
        rc = copy_attributes(m, n);
    if (rc == MOVE_OK && rights && fchmod(m->to, m->st->st_mode & 07777) < 0)
        rc = failed(m, "keep the mode", "");
    return rc;
}

/* ---- times ---- */

static bool same_time(const struct timespec *a, const struct timespec *b) {
    return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

static enum move_rc copy_times(struct meta *m, const struct stat *now) {
    struct timespec times[2] = {m->st->st_atim, m->st->st_mtim};
    if (same_time(&now->st_atim, times) && same_time(&now->st_mtim, times + 1))
        return MOVE_OK;
    enum move_rc rc = may_change(m);
    return rc == MOVE_OK && futimens(m->to, times) < 0 ? failed(m, "keep the times", "") : rc;
}

/* Whether `is` is what a file system with coarser times makes of `wanted`. */
static bool holds_time(const struct timespec *wanted, const struct timespec *is) {
    time_t off_s = wanted->tv_sec - is->tv_sec;
    if (off_s < 0 || off_s > COARSEST_S)
        return false;
    int64_t off_ns = (int64_t)off_s * 1000000000 + wanted->tv_nsec - is->tv_nsec;
    return off_ns >= 0 && off_ns < (int64_t)COARSEST_S * 1000000000;
}

/* ---- all of it ---- */

enum move_rc meta_copy(struct meta *m) {
    struct stat now;
    struct names n;
    m->changed = m->rich = false;
    if (fstat(m->to, &now) < 0)
        return failed(m, "look at the copy", "");
    enum move_rc rc = names_read(m, &n);
    m->rich = n.block;
    if (rc == MOVE_OK)
        rc = copy_rights(m, &n, &now);
    free(n.block);
    if (rc == MOVE_OK && !m->folder)
        rc = copy_flags(m);
    return rc == MOVE_OK && !m->folder ? copy_times(m, &now) : rc;
}

/* What is more than owner, mode and times. */
static enum move_rc check_rich(struct meta *m) {
    struct names n;
    enum move_rc rc = names_read(m, &n);
    if (rc == MOVE_OK)
        rc = check_attributes(m, &n);
    free(n.block);
    unsigned differ = m->folder ? 0 : (flags_of(m->to) ^ m->flags) & kept_flags;
    return rc == MOVE_OK && differ ? lacks(m, "keep the flag ", flag_text(differ)) : rc;
}

enum move_rc meta_check(struct meta *m, const struct stat *now) {
    if (!same_owner(now, m->st))
        return lacks(m, "keep the owner", "");
    if (!same_mode(now, m->st))
        return lacks(m, "keep the mode", "");
    if (!m->folder && !holds_time(&m->st->st_mtim, &now->st_mtim))
        return lacks(m, "keep the times", "");
    return m->rich ? check_rich(m) : MOVE_OK;
}
