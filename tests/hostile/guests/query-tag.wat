;; world: application
;; An answer that is neither `ok` nor `err`.
(func $query (param i32 i32 i32 i32) (result i32) (i32.store8 (i32.const 256) (i32.const 9)) (i32.const 256))
