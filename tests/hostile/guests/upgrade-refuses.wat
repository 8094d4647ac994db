;; world: application
;; Takes no state over.
(data (i32.const 96) "I do not like this state")
(func $upgrade (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)
  (i32.store8 (i32.const 256) (i32.const 1))
  (i32.store (i32.const 260) (i32.const 96)) (i32.store (i32.const 264) (i32.const 24))
  (i32.const 256))
