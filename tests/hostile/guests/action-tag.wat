;; world: engine
;; An action that there is not.
(func $step (param i64 i32 i32) (result i32)
  (i32.store (i32.const 264) (i32.const 512)) (i32.store (i32.const 268) (i32.const 1))
  (i32.store8 (i32.const 512) (i32.const 99))
  (i32.const 256))
