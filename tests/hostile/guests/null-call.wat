;; world: application
;; Calls an empty entry of a table.
(type $f (func (result i32)))
(table 1 funcref)
(func $execute (param i32 i32 i64 i64 i64 i32 i32) (result i32) (call_indirect (type $f) (i32.const 0)))
