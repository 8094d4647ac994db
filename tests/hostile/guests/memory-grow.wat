;; world: application
;; Takes memory until there is no more; answers with the number of pages it has.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32)
  (block (loop
    (br_if 1 (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))
    (br 0)))
  (i32.store (i32.const 256) (i32.const 512)) (i32.store (i32.const 260) (i32.const 1))
  (i32.store (i32.const 512) (memory.size))
  (i32.const 256))
