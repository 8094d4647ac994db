;; world: application
;; A list of 2^32 - 1 receipts.
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (i32.store (i32.const 260) (i32.const -1)) (i32.const 256))
