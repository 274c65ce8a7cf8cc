-- A sample catalogue: three levels, eight contents. Loading it twice changes nothing.

INSERT IGNORE INTO level (level, path, min_count) VALUES
  ('bronze', '/srv/tierd/bronze',    0),
  ('silver', '/srv/tierd/silver', 1000),
  ('gold',   '/srv/tierd/gold',   2000);

INSERT IGNORE INTO contents (cid, content_level, filename) VALUES
  (1, 'gold',   'a.mp4'),
  (2, 'bronze', 'b.mp4'),
  (3, 'silver', 'c.mp4'),
  (4, 'bronze', 'd.mp4'),
  (5, 'silver', 'e.mp4'),
  (6, 'gold',   'f.mp4'),
  (7, 'bronze', 'g.mp4'),
  (8, 'bronze', 'h.mp4');
