-- The catalogue of tierd: MariaDB 10.6+ and MySQL 5.7, 8.x.
-- Names compare byte for byte (utf8mb4_bin). Loading this twice changes nothing.

CREATE TABLE IF NOT EXISTS level (
  level     VARCHAR(64)     NOT NULL,          -- gold, silver, bronze ... any number, any names
  path      VARCHAR(1024)   NOT NULL,          -- its directory, under one of the workers' --root
  min_count BIGINT UNSIGNED NOT NULL,          -- a content belongs here from this many views on
  PRIMARY KEY (level),
  UNIQUE KEY min_count (min_count)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE IF NOT EXISTS contents (
  cid           BIGINT UNSIGNED NOT NULL,
  content_level VARCHAR(64)     NOT NULL,      -- where a whole copy stands, always
  filename      VARCHAR(768)    NOT NULL,      -- below the level's path; may hold sub-directories
  generate_time DATETIME(6)     NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  update_time   DATETIME(6)     NOT NULL DEFAULT CURRENT_TIMESTAMP(6),
  PRIMARY KEY (cid),
  UNIQUE KEY filename (filename),
  KEY content_level (content_level),
  CONSTRAINT contents_level FOREIGN KEY (content_level) REFERENCES level (level)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
