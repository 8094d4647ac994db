;; world: application
;; Grows a table until it may not; answers with its size.
(table $t 1 funcref)
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (block (loop
    (br_if 1 (i32.eq (table.grow $t (ref.null func) (i32.const 100)) (i32.const -1)))
    (br 0)))
  (i32.store (i32.const 256) (i32.const 512)) (i32.store (i32.const 260) (i32.const 1))
  (i32.store (i32.const 512) (table.size $t))
  (i32.const 256))
