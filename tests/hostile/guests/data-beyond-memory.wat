;; world: application
;; Its data does not fit into its memory.
(data (i32.const 0x7fffffff) "far")
