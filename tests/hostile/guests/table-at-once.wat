;; world: application
;; A table of one entry too many.
(table 20001 funcref)
